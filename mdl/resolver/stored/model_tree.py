"""The Hub's model tree as listings and catalogue rows: what says that it is made from a model."""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from mdl.formats import find_tables, recognize
from mdl.resolver.stored.choose import HUB_TREE
from mdl.resolver.stored.listing import Listing
from mdl.resolver.stored.trust import trust_rank
from mdl.store import FORMATS, STORED_FORMATS, Catalog, CatalogSource, MirrorRow, VariantTable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TREE_SOURCE = CatalogSource(HUB_TREE, "", "the Hub's model tree (base_model:quantized)", "", "")
_BEHIND = 50  # ranks of the tree's rows start behind the packaged catalogue's


def list_row(info: "ModelInfo") -> Listing:
    """A row of the model tree as a listing: file names without sizes."""
    from mdl.resolver.hub_api import facts_of
    from mdl.resolver.hub_description import describe_listing

    description = describe_listing(info)
    format = recognize(description)
    return Listing(facts_of(info, own_token=True), format, False, info.downloads or 0, description)


def tree_rows(
    name: str,
    listed: Iterable[Listing],
    more: tuple[str, ...] = (),
    less: tuple[str, ...] = (),
    *,
    trusted_only: bool = True,
) -> Iterator[MirrorRow]:
    """Catalogue rows for what is quantized from `name`, in the Hub's order (by downloads).

    A relation is `verified` where files or a configuration show the format, `declared` where only
    a name or a tag claims it. Private repositories are left out: others read these rows too.

    Args:
        more: publishers that the configuration trusts besides the packaged list.
        less: publishers that it does not trust.
        trusted_only: leave out rows for formats that mdl makes on load but for fp8 by trusted
            publishers: such rows are used without another look at the publisher.
    """
    base = name.partition("/")[0]
    for rank, listing in enumerate(listed):
        if listing.info.is_private:
            continue
        owner = listing.repo_id.partition("/")[0]
        for format in listing.formats:
            trust = trust_rank(owner, base, format, more, less)
            wanted = format in STORED_FORMATS or (format == "fp8" and trust is not None)
            if not trusted_only:
                wanted = format in FORMATS and format not in ("16bit", "other")
            if wanted and listing.key != name.lower():
                relation = "verified" if _is_shown(listing, format) else "declared"
                yield MirrorRow(
                    name, format, listing.repo_id, format, "", _BEHIND + rank, relation, HUB_TREE
                )


def _is_shown(listing: Listing, format: str) -> bool:
    """Whether files or a configuration show a format, where others would only claim it."""
    found = listing.of(format)
    has_files = found is not None and any(variant.files for variant in found.variants)
    return has_files or any(find_tables(listing.description.config or {}))


def remember_tree(
    catalog: Catalog, name: str, rows: Iterable[MirrorRow], formats: Collection[str] = ()
) -> None:
    """Replace the model tree's rows of a name, and note when.

    Args:
        formats: those that were looked for; rows of others stay, and the tree counts as unread.
    """
    if formats:
        catalog.add(rows, TREE_SOURCE)
        return
    catalog.remove(name, source=HUB_TREE)
    catalog.add(rows, TREE_SOURCE)
    VariantTable(catalog.database).remember_tree(name.lower())
