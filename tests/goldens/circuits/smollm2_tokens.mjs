// Token ids of SmolLM2 from llama.cpp, an implementation that shares no code with transformers.
//
//   npm install --ignore-scripts --omit=optional node-llama-cpp@3.22.1 @node-llama-cpp/linux-x64@3.22.1
//   node smollm2_tokens.mjs SmolLM2-135M-Instruct.Q4_1.gguf smollm2_tokens.json
//
// Rewrites the ids of the texts that the JSON file holds; special tokens in texts are recognised.
import fs from "node:fs";
import { getLlama } from "node-llama-cpp";

const [modelPath, goldenPath] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath, vocabOnly: true });
const golden = JSON.parse(fs.readFileSync(goldenPath));
const rows = golden.map(([text]) => JSON.stringify([text, model.tokenize(text, true)]));
fs.writeFileSync(goldenPath, `[\n${rows.join(",\n")}\n]\n`);
process.exit(0);
