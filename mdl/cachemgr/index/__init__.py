"""The index: what is in a cache root, without reading the disk again."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.cachemgr.index.breakdown import ORPHANS, Breakdown
    from mdl.cachemgr.index.filters import Row, compile_filter, rows_of, sort_rows
    from mdl.cachemgr.index.grouping import LocalRecords, Summary, group, is_pinned, physical
    from mdl.cachemgr.index.picture import (
        COLOURS,
        compose,
        draw_png,
        draw_svg,
        legend,
        poster,
        svg_tiles,
    )
    from mdl.cachemgr.index.refresh import Survey, survey, tree_size
    from mdl.cachemgr.index.rescan import read_again
    from mdl.cachemgr.index.resembling import did_you_mean
    from mdl.cachemgr.index.show import describe
    from mdl.cachemgr.index.tiles import Tile, file_tiles, place_of, repo_tiles
    from mdl.cachemgr.index.treemap import Box

__getattr__ = door(
    __name__,
    {
        "breakdown": "Breakdown ORPHANS",
        "filters": "Row compile_filter rows_of sort_rows",
        "grouping": "LocalRecords Summary group is_pinned physical",
        "picture": "COLOURS compose draw_png draw_svg legend poster svg_tiles",
        "refresh": "Survey survey tree_size",
        "rescan": "read_again",
        "resembling": "did_you_mean",
        "show": "describe",
        "tiles": "Tile file_tiles place_of repo_tiles",
        "treemap": "Box",
    },
)
