"""Tables of points: columns that nothing is read from are named, with what would make a grouping of them."""

from mfa_train.scaling.study.gather import gather


def notices(folder, header: str, rows: list[tuple]) -> list[str]:
    path = folder / "points.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return [notice.removeprefix(f"{path}: ") for notice in gather([path]).notices]


def test_columns_that_are_not_used_are_named_and_a_grouping_is_told_its_name(tmp_path):
    rows = [(1e7, 1e9 + place, 3.0, f"set {place % 8}", place % 3, 0.1 * place, "same") for place in range(96)]
    first, *others = notices(tmp_path, "N,D,loss,experiment,trial,width,note", rows)
    assert first == "columns that are not used: experiment, trial, width, note"
    assert others[:2] == [
        "column experiment has 8 values in 96 rows, which are taken as one: name it group for a law of each",
        "column trial has 3 values in 96 rows, which are taken as one: name it seed for pairs and units of one seed",
    ]
    assert not any("width" in notice or "note " in notice for notice in others)
    used = notices(tmp_path, "N,D,loss,group,seed,width,", rows)
    assert used[0] == "columns that are not used: width, number 7 (without a name)"
    assert not any("taken as one" in notice for notice in used)


def test_a_table_of_which_everything_is_used_is_read_without_a_word_of_its_columns(tmp_path):
    rows = [(10.0**size, 1e9, 3.0, "mha", 1) for size in range(6, 9)]
    assert not any("column" in notice for notice in notices(tmp_path, "N,D,loss,group,seed", rows))
