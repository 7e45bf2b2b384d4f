"""The allowed order of rooms, lowest first: imports stay in a room or go down."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Modules at a package's root are rooms of their own; `__init__` stands above all.
ROOMS = {
    "circuits_jax": """
        shapes runs tasks decoder interpose lm capture codes circuits methods evaluation report
        config jobs pipeline main
    """,
    "foveation_jax": """
        shapes runs metrics windows vgg transforms data networks stage1 training probes claims
        report config jobs pipeline main
    """,
}


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    files = (ROOT / package).rglob("*.py")
    names = ((".".join(f.relative_to(ROOT).with_suffix("").parts), f) for f in files)
    return {name.removesuffix(".__init__"): file for name, file in names}


def imported(package: str, file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == package}


@pytest.mark.parametrize("package", ROOMS)
def test_imports_run_one_way(package):
    order, known = ROOMS[package].split(), modules(package)
    floors = {name: number for number, name in enumerate(order)}
    assert {name.split(".")[1] for name in known if "." in name} == set(order)
    climbing = [
        f"{name} imports {other}"
        for name, file in known.items()
        for other in imported(package, file, known)
        if name != package
        and (other == package or floors[other.split(".")[1]] > floors[name.split(".")[1]])
    ]
    assert not climbing


@pytest.mark.parametrize("package", ROOMS)
def test_neither_library_imports_the_other(package):
    others = set(ROOMS) - {package}
    for name, file in modules(package).items():
        assert not others & {module.split(".")[0] for module in _imports(file)}, name


def _imports(file: Path) -> list[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    return plain + [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]


@pytest.mark.parametrize("package", ROOMS)
def test_files_that_a_text_names_are_there(package):
    files = (file for room in (package, "tests", "configs") for file in (ROOT / room).rglob("*.py"))
    ours = [str(file.relative_to(ROOT)) for file in files]
    lost = [
        f"{module}: {named}"
        for module, file in modules(package).items()
        for named in re.findall(r"[\w/]+\.py\b", file.read_text())
        if not any(f"/{name}".endswith(f"/{named}") for name in ours)
    ]
    assert not lost


def test_one_module_intercepts():
    files = [file for package in ROOMS for file in modules(package).values()]
    found = [f.name for f in files if re.search(r"\bintercept_methods\(", f.read_text())]
    assert found == ["points.py"]


# Training of networks chooses its own precision; elsewhere products are `runs/precision.py`'s.
OWN_PRECISION = ("precision.py", "foveation_jax/networks/")
PRODUCTS = {"einsum", "matmul", "dot", "vdot", "tensordot", "inner", "convolve"}


def products_of_jax(tree: ast.AST) -> list[ast.Call]:
    """Calls of jnp's products that do not say how exact they are to be."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in PRODUCTS
        and getattr(node.func.value, "id", "") == "jnp"
        and not any(keyword.arg == "precision" for keyword in node.keywords)
    ]


@pytest.mark.parametrize("package", ROOMS)
def test_products_of_the_science_say_how_exact_they_are(package):
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in modules(package).values()
        if not any(own in str(file.relative_to(ROOT)) for own in OWN_PRECISION)
        for call in products_of_jax(ast.parse(file.read_text()))
    ]
    assert not found


def test_a_product_that_does_not_say_is_found():
    text = "jnp.einsum('ij,jk', a, b)\njnp.dot(a, b, precision='highest')\nnp.dot(a, b)"
    assert [call.lineno for call in products_of_jax(ast.parse(text))] == [1]


# One matrix at a time, where a CPU's jaxlib would wait for the threads of its own pool.
FACTORED = re.compile(
    r"\b(jnp|lax|scipy)\.linalg\.(eig\w*|svd|pinv|qr|lu\w*|inv|solve\w*|triangular_solve|cho\w+|lstsq"
    r"|det|slogdet|expm|sqrtm|schur)\("
)
ALONE = {
    "circuits_jax/runs/eigen.py",
    "foveation_jax/runs/eigen.py",
    "circuits_jax/lm/made/planted.py",
}


def test_no_batch_of_matrices_is_factored_by_jaxlib():
    found = {
        str(file.relative_to(ROOT))
        for package in ROOMS
        for file in modules(package).values()
        if FACTORED.search(file.read_text())
    }
    assert found == ALONE
