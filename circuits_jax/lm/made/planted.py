"""Planted models: a transformer of any size in which a small known circuit does a task exactly.

The residual stream has five parts, each with components of its own: the token, the place, the
token before, the answer, and what decoys write. All are turned together by one random rotation, so
no part shows in the coordinates. The circuit's heads have weights written by hand (one-hot vectors,
scores so large that attention is a choice, the first token where there is nothing to choose); all
other heads are decoys (`decoys.py`), with outputs of the same norm. A constant in every embedding,
as large as all decoys together, keeps the scale of the stream the same through all layers. There
are no norms, and no MLPs but in the last two kinds: a decoy changes no logit, and the truth is
exact.

    induction   a head copies the token before; a head of a later layer looks for the place whose
                token before is the present one, and copies the token there to the answer
    duplicate   a head looks for the present token at an earlier place: yes or no
    previous    a head copies the token before to the answer
    mlp         induction, with an MLP in every layer: the first head copies the token before to a
                sixth part, from where the MLP of its layer copies it on to where the other head
                looks; all other MLPs are decoys
    experts     the same by one expert of a mixture; all other experts are decoys, of which each
                token chooses some

Edges of a truth are of heads; one by way of an MLP is none between them. Its edges of the graph are
the path along which the prompts of a pair (`tasks/planted.py`) differ, from the input to the
logits: cut one of them and the answer is the negative's.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from circuits_jax.decoder.batch import TokenBatch
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.made import decoys
from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.precision import einsum, matmul
from circuits_jax.tasks.ground_truth import GroundTruth, Head
from circuits_jax.tasks.words import WordTokenizer

KINDS = ("induction", "duplicate", "previous", "mlp", "experts")
BOS, YES, NO = range(3)
WORDS = ("<bos>", "yes", "no", *(a + b for a, b in itertools.product("bdfglmnrst", "ao")))
V, P = len(WORDS), 12  # vocabulary, places
N_DECOY = 36  # components that decoys write to
COLDNESS = 16.0  # score of a match; half of it goes to the first token. Gradients still pass
GAIN = 10.0  # of the unembedding

_NAME = re.compile(r"planted:(\d+)x(\d+)(?::([a-z]+))?(?::(\d+))?")
_TOKEN, _BEFORE, _ANSWER = (V * i + np.arange(V) for i in range(3))
_PLACE = 3 * V + np.arange(P)
_DECOY = 3 * V + P + np.arange(N_DECOY)
D = 3 * V + P + N_DECOY + 1
_HEARD = D + np.arange(V)  # of the kinds with MLPs alone
K = V + P
N_EXPERTS, N_CHOSEN = 8, 2
CERTAINTY = 3.0  # by how much the router prefers the circuit's expert; the rest is a decoy's share

ROLES = dict.fromkeys(("induction", "mlp", "experts"), ("before", "induction"))
BY_MLP = ("mlp", "experts")  # kinds in which an MLP does the second step
DIFFERS = {"before": "v", "induction": "k", "duplicate": "k", "previous": "v"}  # within a pair


@dataclasses.dataclass(frozen=True)
class Plant:
    """A planted model's size, circuit and seed.

    Raises:
        InputError: an unknown kind, or too few layers or heads for it.
    """

    n_layers: int
    n_heads: int
    kind: str = "induction"
    seed: int = 0

    def __post_init__(self):
        check_allowed("kind of planted circuit", self.kind, KINDS)
        least = len(ROLES.get(self.kind, "1"))
        if self.n_layers < least or self.n_heads < 1:
            raise InputError(
                f"a planted model of {self.n_layers}x{self.n_heads} (layers x heads); a circuit of "
                f"kind {self.kind} needs at least {least}x1"
            )


def load(name: str) -> LanguageModel:
    """A planted model by its name: `planted:LxH[:KIND[:SEED]]`, such as planted:48x25:induction:0.

    Raises:
        InputError: another form of name, an unknown kind, or too small a model.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(
            f"model {name!r}; a planted model is planted:LAYERSxHEADS[:KIND[:SEED]], such as "
            "planted:48x25:induction:0"
        )
    layers, heads, kind, seed = match.groups()
    plant = Plant(int(layers), int(heads), kind or "induction", int(seed or 0))
    roles = places(plant)
    truth = GroundTruth(
        task="planted",
        model=name,
        name="planted",
        heads=frozenset(roles.values()),
        source="written into the weights",
        roles={role: frozenset({head}) for role, head in roles.items()},
        edges=frozenset(itertools.pairwise(roles.values()) if plant.kind not in BY_MLP else ()),
        graph_edges=_path(plant, roles),
    )
    config = _config(plant)
    params = _params(config, tuple(roles), tuple(roles.values()), jax.random.key(plant.seed))
    return LanguageModel(name, config, params, WordTokenizer(WORDS, plant.kind, truth))


def places(plant: Plant) -> dict[str, Head]:
    """Role -> (layer, head) of every head of the circuit, in order, drawn by the seed."""
    rng = np.random.default_rng(plant.seed)
    roles = ROLES.get(plant.kind, (plant.kind,))
    layers = np.sort(rng.choice(plant.n_layers, len(roles), replace=False))
    heads = rng.integers(plant.n_heads, size=len(roles))
    return {r: (int(a), int(b)) for r, a, b in zip(roles, layers, heads, strict=True)}


def _path(plant: Plant, roles: Mapping[str, Head]) -> frozenset[tuple[str, str]]:
    """(writer, reader) of the graph, by name, along which what differs within a pair passes."""
    heads = [f"a{layer}.h{head}" for layer, head in roles.values()]
    steps = [(head, f"{head}<{DIFFERS[role]}>") for role, head in zip(roles, heads, strict=True)]
    if plant.kind in BY_MLP:
        mlp = f"m{roles['before'][0]}"
        steps.insert(1, (mlp, mlp))
    writers, readers = zip(*steps, strict=True)
    return frozenset(zip(("input", *writers), (*readers, "logits"), strict=True))


def _config(plant: Plant) -> DecoderConfig:
    mlp: dict[str, Any] = {"d_model": D + V, "d_mlp": V} if plant.kind in BY_MLP else {}
    if plant.kind == "experts":
        mlp |= {"d_mlp": N_EXPERTS * V, "n_experts": N_EXPERTS, "n_chosen": N_CHOSEN}
        mlp |= {"experts_sum_to_one": True}
    config = DecoderConfig(
        family="planted",
        vocab_size=V,
        n_positions=P,
        n_layers=plant.n_layers,
        n_heads=plant.n_heads,
        n_kv_heads=plant.n_heads,
        head_width=K,
        d_model=D,
        d_mlp=0,
        norm="none",
        activation="relu",
        attention_scale=1.0,
        learned_positions=True,
    )
    return dataclasses.replace(config, **mlp)


@functools.partial(jax.jit, static_argnames=("config", "roles"))
def _params(config: DecoderConfig, roles: tuple[str, ...], where: Any, key: jax.Array) -> Any:
    """The decoder's parameters: decoys, the circuit in their place, calibrated and turned."""
    weights, prompts, turn = jax.random.split(key, 3)
    width = config.d_model
    components = jnp.arange(width)
    reads, writes = components != D - 1, jnp.isin(components, _DECOY)
    heads = decoys.random_heads(weights, config, reads, writes)
    decoy = jnp.ones(config.heads, bool)
    for role, (layer, head) in zip(roles, where, strict=True):
        decoy = decoy.at[layer, head].set(False)
        by_hand = _BY_HAND["heard" if role == "before" and config.d_mlp else role]()
        o = heads["o"].at[layer, head].set(by_hand["o"][:, :width])
        heads = {n: heads[n].at[layer, :, head].set(by_hand[n][:width]) for n in "qkv"} | {"o": o}
    params = {
        "embedding": (jnp.eye(V, width)).at[:, D - 1].set(np.sqrt(decoy.size)),
        "position_embedding": jnp.zeros((P, width)).at[np.arange(P), _PLACE].set(1),
        "unembedding": jnp.zeros((width, V)).at[_ANSWER, np.arange(V)].set(GAIN),
        "layers": {"attention": heads},
    }
    neurons = jnp.ones((config.n_layers, config.d_mlp), bool)
    if config.d_mlp:
        expert = jax.random.randint(weights, (), 0, N_EXPERTS) if config.n_experts else 0
        mlps = decoys.random_mlps(turn, config, reads, writes)
        place = where[0][0], expert
        params["layers"]["mlp"], neurons = _mlp_by_hand(mlps, neurons, place, decoy.size)
    tokens = jax.random.randint(prompts, (16 * P,), NO + 1, V).reshape(16, P).at[:, 0].set(BOS)
    batch = TokenBatch(tokens, jnp.ones((16, P), bool))
    params = decoys.calibrated(config, params, batch, decoy, neurons)
    rotation, _ = jnp.linalg.qr(jax.random.normal(turn, (width * width,)).reshape(width, width))
    return _turned(params, rotation)


def _turned(params: dict[str, Any], rotation: Float[Array, "D D"]) -> dict[str, Any]:
    """The same model in other coordinates of the residual stream."""
    heads = params["layers"]["attention"]
    reading = {n: einsum("ldhk,dc->lchk", heads[n], rotation) for n in "qkv"}
    writing = {"o": einsum("lhkd,dc->lhkc", heads["o"], rotation)}
    layers = {"attention": reading | writing}
    if "mlp" in params["layers"]:
        own = params["layers"]["mlp"]
        read = own.keys() & {"up", "router"}
        layers["mlp"] = {n: einsum("lde,dc->lce", own[n], rotation) for n in read}
        layers["mlp"]["down"] = einsum("led,dc->lec", own["down"], rotation)
    return {
        "embedding": matmul(params["embedding"], rotation),
        "position_embedding": matmul(params["position_embedding"], rotation),
        "unembedding": matmul(rotation.T, params["unembedding"]),
        "layers": layers,
    }


def _mlp_by_hand(
    mlps: dict[str, Array], decoy: Bool[Array, "L E"], place: tuple[Any, Any], n_heads: int
) -> tuple[dict[str, Array], Bool[Array, "L E"]]:
    """The MLP of a layer copies what is heard to the token before; or one expert, always chosen."""
    layer, expert = place
    neurons = expert * V + np.arange(V)
    by_hand = {
        "up": mlps["up"].at[layer, :, neurons].set(jnp.eye(V, D + V, k=D)),
        "down": mlps["down"].at[layer, neurons].set(jnp.eye(V, D + V, k=_BEFORE[0])),
    }
    if "router" in mlps:
        router = mlps["router"].at[layer, :, expert].set(0)
        by_hand["router"] = router.at[layer, D - 1, expert].set(CERTAINTY / np.sqrt(n_heads))
    return by_hand, decoy.at[layer, neurons].set(False)


def _blank() -> dict[str, np.ndarray]:
    width = D + V  # with the part for MLPs, which other kinds cut off
    parts = {n: np.zeros((width, K), np.float32) for n in "qkv"}
    return parts | {"o": np.zeros((K, width), np.float32)}


def _first_token_by_default(head: dict[str, np.ndarray], slot: int) -> None:
    """Attend to the first token wherever nothing else matches."""
    head["q"][_TOKEN, slot] = COLDNESS / 2
    head["k"][_TOKEN[BOS], slot] = 1


def _copy_before(part: np.ndarray) -> dict[str, np.ndarray]:
    """Attend to the place before; write its token to a part of the stream."""
    head, place, word = _blank(), np.arange(P), np.arange(V)
    head["q"][_PLACE, place] = COLDNESS
    head["k"][_PLACE[:-1], place[1:]] = 1
    head["v"][_TOKEN, word] = 1
    head["o"][word, part] = 1
    return head


def _induction() -> dict[str, np.ndarray]:
    """Attend to the place whose token before is the present one; answer its token."""
    head, word = _blank(), np.arange(V)
    head["q"][_TOKEN, word] = COLDNESS
    head["k"][_BEFORE, word] = 1
    head["v"][_TOKEN[BOS + 1 :], word[BOS + 1 :]] = 1
    head["o"][word, _ANSWER] = 1
    _first_token_by_default(head, V)
    return head


def _duplicate() -> dict[str, np.ndarray]:
    """Attend to the present token at another place; answer yes, or no at the first token."""
    head, place, word = _blank(), np.arange(P), np.arange(BOS + 1, V)
    head["q"][_TOKEN[word], word] = COLDNESS
    head["k"][_TOKEN[word], word] = 1
    head["q"][_PLACE, V + place] = -COLDNESS
    head["k"][_PLACE, V + place] = 1
    head["v"][_TOKEN[word], YES] = 1
    head["v"][_TOKEN[BOS], NO] = 1
    head["o"][[YES, NO], _ANSWER[[YES, NO]]] = 1
    _first_token_by_default(head, BOS)
    return head


_BY_HAND: Mapping[str, Any] = {
    "before": lambda: _copy_before(_BEFORE),
    "heard": lambda: _copy_before(_HEARD),
    "previous": lambda: _copy_before(_ANSWER),
    "induction": _induction,
    "duplicate": _duplicate,
}
