from circuits_jax.tasks import ground_truths


def test_ioi_roles_make_up_the_26_heads():
    (truth,) = ground_truths("ioi")
    assert truth.model == "gpt2"
    assert len(truth.heads) == 26 == sum(map(len, truth.roles.values()))
    assert truth.heads == frozenset().union(*truth.roles.values())
    assert {len(heads) for heads in truth.roles.values()} == {2, 3, 4, 8}
    assert truth.roles["name mover"] == {(9, 9), (9, 6), (10, 0)}
    assert all(0 <= layer < 12 and 0 <= head < 12 for layer, head in truth.heads)


def test_greater_than_has_nine_heads():
    (truth,) = ground_truths("greater_than")
    assert len(truth.heads) == 9
    assert {(7, 10), (8, 11), (9, 1)} < truth.heads


def test_docstring_variants_differ_in_one_head():
    acdc, authors = ground_truths("docstring")
    assert acdc.heads - authors.heads == {(1, 2)}
    assert authors.heads - acdc.heads == {(1, 0)}
    assert len(acdc.heads) == len(authors.heads) == 6
    assert acdc.model == authors.model == "attn-only-4l"


def test_other_tasks_have_none():
    assert ground_truths("induction") == ()
