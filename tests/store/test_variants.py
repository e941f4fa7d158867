"""What repositories hold, by format and variant."""

from mdl.store import Catalog, VariantRow, VariantTable


def row(format: str, variant: str, commit: str = "c" * 40) -> VariantRow:
    return VariantRow(format, variant, variant, 4.5, 10, "[]", "", "", commit, 1.0)


ROWS = [row("gguf", "Q4_K_M"), row("gguf", "Q8_0"), row("mmproj", "F16"), row("mmproj", "BF16")]


def names(rows: list[VariantRow]) -> list[str]:
    return [each.variant for each in rows]


def test_a_few_are_found_for_several_repositories_at_once(catalog: Catalog) -> None:
    table = VariantTable(catalog.database)
    table.remember("o/gguf", ROWS)
    table.remember("o/onnx", [row("onnx", "q4"), row("onnx", "fp16")])
    found = table.few(["o/none", "o/gguf", "o/onnx"], "gguf")
    assert {key: names(rows) for key, rows in found.items()} == {
        "o/gguf": ["Q4_K_M", "F16", "BF16"]
    }
    assert names(table.few(["o/gguf"], "gguf", "Q8_0")["o/gguf"]) == ["Q8_0", "F16", "BF16"]
    assert names(table.few(["o/onnx"], "onnx")["o/onnx"]) == ["q4"]
    assert names(table.all("o/gguf")) == ["Q4_K_M", "Q8_0", "F16", "BF16"]


def test_what_is_known_of_the_same_commit_is_kept(catalog: Catalog) -> None:
    table = VariantTable(catalog.database)
    table.remember("o/gguf", ROWS)
    listed = [row("gguf", "Q2_K")]
    table.remember_newer([("o/gguf", "c" * 40, listed), ("o/new", None, listed)])
    assert names(table.all("o/gguf")) == ["Q4_K_M", "Q8_0", "F16", "BF16"]
    assert names(table.all("o/new")) == ["Q2_K"]
    table.remember_newer([("o/gguf", "d" * 40, listed)])
    assert names(table.all("o/gguf")) == ["Q2_K"]
