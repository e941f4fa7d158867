"""Gather what a choice among stored formats needs: the database, the cache, the Hub."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mdl.formats import (
    GGUF_HEAD,
    Description,
    ModelShape,
    Variant,
    catalogue_format,
    describe_folder,
    read_gguf_head,
    recognize,
    type_in,
    variant_key,
)
from mdl.resolver.names import Name, parse_name
from mdl.resolver.stored import refusals
from mdl.resolver.stored.choose import HUB_TREE, Ask, Known, choose
from mdl.resolver.stored.listing import FamilyRows, Listing, from_rows, to_rows
from mdl.resolver.types import RepoInfo, Resolution, ResolveOptions, ResolveRequest
from mdl.store import NameRecord, VariantRow, VariantTable

if TYPE_CHECKING:
    from mdl.resolver.sources import Sources

# Seconds for which what the Hub said is used again: asked by this very resolver, and a tree.
_LIVE, _TREE = 60.0, 86400.0
_FIRST = 4  # repositories looked up together, the named one and its first mirrors


class StoredLookup:
    """Resolves stored formats for one resolver; remembers for a minute what the Hub said."""

    def __init__(self, sources: "Sources") -> None:
        self._sources = sources
        self._variants = VariantTable(sources.catalog.database)
        self._live: dict[tuple[str, str | None], tuple[float, Listing]] = {}

    def resolve(self, request: ResolveRequest) -> Resolution:
        """The repository, variant and files of a stored format; a refusal has `error` set.

        Raises:
            BusyError, OfflineError: the Hub is overloaded, or does not respond.
        """
        if request.options.fit == "auto":
            request = request._replace(options=request.options._replace(fit=self._room()))
        if request.options.prefer == "cached" and request.online:
            here = self.resolve(request._replace(online=False))
            if here.error is None and here.cached is not None and here.cached.complete:
                return here
        listings: dict[str, Listing | None] = {}
        if request.options.format == "16bit":  # a variant alone: org/repo:Q4_K_M
            self._find_listing(request, request.name.text, None, listings)
        request, format = self._meant(request, listings)
        record = self._sources.about(request.name.key)
        if request.name.key not in listings:
            mirrors = [row.repo_id for row, _, _ in record.mirrors if row.format == format]
            if mirrors and not request.online:
                self._list_first(request, format, mirrors, record, listings)
            if request.name.key not in listings:
                of_mirrors = record if mirrors else None
                self._find_listing(request, request.name.text, format, listings, of_mirrors)
            request = self._follow(request, listings)
            if request.renamed_from is not None:
                record = self._sources.about(request.name.key)
        settings = self._sources.settings
        known = Known(
            record, listings, self._tree_read(request, record), settings.trusted,
            settings.distrusted,
        )  # fmt: skip
        while True:
            outcome = choose(request, format, known)
            if isinstance(outcome, Resolution):
                if outcome.error is not None:
                    return outcome
                at = outcome.commit or outcome.revision
                cached = self._sources.cached(outcome.repo_id, at)
                if cached is None:
                    return outcome
                return with_cached_files(outcome._replace(cached=cached))
            if outcome.what == "tree":
                record = self._read_tree(outcome.repo_id, listings)
                known = known._replace(record=record, tree_read=time.time())
            elif outcome.what == "header":
                self._read_header(outcome.repo_id, listings)
            elif outcome.what == "access":
                self._add_access(outcome, listings)
            else:
                self._find_listing(request, outcome.repo_id, format, listings, known.record)
                renamed = self._follow(request, listings)
                if renamed is not request:
                    request = renamed
                    known = known._replace(record=self._sources.about(request.name.key))

    def _room(self) -> int | None:
        from mdl.resolver.stored.hardware import this_machine

        return this_machine().room

    def family_of(self, name: Name, *, online: bool) -> FamilyRows:
        """The base model behind a name, the rows of what is made from it, and their listings.

        Raises:
            NotFoundError: there is no such repository.
            OfflineError: nothing is known of it here.
        """
        listings: dict[str, Listing | None] = {}
        request = ResolveRequest(name, ResolveOptions(), online)
        self._find_listing(request, name.text, None, listings)
        own = listings.get(name.key)
        record = self._sources.about(name.key)
        if own is not None and own.info.state != "ok":
            raise refusals.not_there(own.info, name.text)
        if own is None and record.repository is None and record.spelling is None:
            raise refusals.unknown_offline(name.text, "family")
        base = own.repo_id if own is not None else record.spelling or name.text
        above = own.info.base_model if own is not None else None
        above = above or (record.repository.base_model if record.repository else None)
        made = record.quantized is not None or (own is not None and own.formats[:1] != ("16bit",))
        if above and made:
            base = above
            self._find_listing(request, base, None, listings)
            record = self._sources.about(base.lower())
        found = parse_name(base, allow_local=False)
        if online and self._tree_read(request._replace(name=found), record) is None:
            record = self._read_tree(base, listings)
        for row, _, _ in record.mirrors:
            key = row.repo_id.lower()
            if key not in listings:
                listings[key] = self._known_here(request, row.repo_id, None, None)
        return FamilyRows(base, record.mirrors, listings)

    def own_formats(self, request: ResolveRequest) -> tuple[str, ...]:
        """What the repository named holds itself, where that is known or can be asked."""
        listings: dict[str, Listing | None] = {}
        self._find_listing(request, request.name.text, None, listings)
        own = listings.get(request.name.key)
        return own.formats if own is not None else ()

    def own_memory(self, request: ResolveRequest) -> tuple[int, ModelShape | None] | None:
        """Bytes of the named repository's weights, and what its KV cache depends on."""
        listings: dict[str, Listing | None] = {}
        self._find_listing(request, request.name.text, "16bit", listings)
        own = listings.get(request.name.key)
        size = None if own is None else own.weight_bytes(Variant(""))
        return None if own is None or size is None else (size, own.shape)

    def _read_header(self, repo_id: str, listings: dict[str, Listing | None]) -> None:
        """Read the head of a GGUF file for the size of its KV cache: one request."""
        listing = listings[repo_id.lower()]
        found = None if listing is None else listing.of("gguf")
        if listing is None or found is None:
            return
        path = found.variants[-1].files[0].path
        data = self._sources.hub.first_bytes(listing.repo_id, path, listing.info.commit, GGUF_HEAD)
        head = {path: read_gguf_head(data or b"") or {}}
        description = listing.description._replace(gguf=head)
        listings[repo_id.lower()] = listing._replace(description=description)

    def _meant(
        self, request: ResolveRequest, listings: dict[str, Listing | None]
    ) -> tuple[ResolveRequest, str]:
        """The format meant where only a variant was given: the one that has it, else GGUF."""
        format, variant = request.options.format, request.options.variant
        if format != "16bit":
            return request, format
        request = self._follow(request, listings)
        own = listings.get(request.name.key)
        if own is not None and variant is not None:
            for found in (own.format, *own.format.others):
                if found.format is not None and found.variant(variant) is not None:
                    return request, catalogue_format(found.format)
            if own.formats and type_in(variant) is None:
                return request, own.formats[0]
        return request, "gguf"

    def _follow(
        self, request: ResolveRequest, listings: dict[str, Listing | None]
    ) -> ResolveRequest:
        """The request for the name that the Hub redirects to."""
        own = listings.get(request.name.key)
        if own is None or own.info.state != "ok" or own.key == request.name.key:
            return request
        name = parse_name(own.repo_id, allow_local=False)
        return request._replace(name=name, renamed_from=request.name.text)

    # -- listings ---------------------------------------------------------------------------

    def _find_listing(
        self,
        request: ResolveRequest,
        repo_id: str,
        format: str | None,
        listings: dict[str, Listing | None],
        record: NameRecord | None = None,
    ) -> None:
        key = repo_id.lower()
        revision = request.options.revision if key == request.name.key else None
        if request.online:
            deep = request.options.fit is not None
            seen = None if deep else listings.get(key)
            found: Listing | None = self._fetch(repo_id, revision, format, seen, deep=deep)
        else:
            found = self._known_here(request, repo_id, format, record)
        listings[key] = found
        if found is not None:
            listings[found.key] = found

    def _fetch(
        self,
        repo_id: str,
        revision: str | None,
        format: str | None,
        seen: Listing | None,
        *,
        deep: bool,
    ) -> Listing:
        memo = self._live.get((repo_id.lower(), revision))
        fresh = memo is not None and time.monotonic() - memo[0] < _LIVE
        if memo is not None and fresh and (not deep or memo[1].has_sizes):
            return memo[1]
        from mdl.resolver.hub_description import list_repository

        found = list_repository(self._sources.hub, repo_id, revision, format, seen, deep=deep)
        self._live[(repo_id.lower(), revision)] = (time.monotonic(), found)
        self._sources.keep(repo_id.lower(), revision, found.info)
        if found.info.state == "ok" and revision is None and not found.info.is_private:
            rows = to_rows(found)
            self._sources.write(lambda: self._variants.remember(found.key, rows))
        return found

    def _list_first(
        self,
        request: ResolveRequest,
        format: str,
        mirrors: list[str],
        record: NameRecord,
        listings: dict[str, Listing | None],
    ) -> None:
        """List the named repository and its first mirrors from the database, in one query: most
        choices offline need no other."""
        options, own = request.options, request.name.key
        if options.revision is not None or options.fit is not None:
            return
        names = {name.lower(): name for name in (request.name.text, *mirrors[: _FIRST - 1])}
        wanted = options.variant and variant_key(options.variant)
        found = self._variants.few(list(names), format, wanted)
        for key, rows in found.items():
            if rows[0].format == format:  # before the projectors
                listings[key] = self._of_rows(names[key], rows, record)
        if own not in listings:
            listings[own] = self._in_cache(request.name.text, None)

    def _known_here(
        self, request: ResolveRequest, repo_id: str, format: str | None, record: NameRecord | None
    ) -> Listing | None:
        """A listing from the database, else from the cache; no socket.

        `record` is what the catalogue has of the name asked for: the facts of its mirrors too.
        """
        key, options = repo_id.lower(), request.options
        is_own = key == request.name.key
        if options.revision is None or not is_own:
            rows = self._variant_rows(key, format, options, needs_all=not is_own or record is None)
            if rows:
                listing = self._of_rows(repo_id, rows, record)
                if options.fit is None:
                    return listing
                here = self._in_cache(repo_id, None)
                shape = Description() if here is None else here.description._replace(files=())
                return listing._replace(description=shape)
        return self._in_cache(repo_id, options.revision if is_own else None)

    def _of_rows(self, repo_id: str, rows: list[VariantRow], record: NameRecord | None) -> Listing:
        info, commit = self._info(repo_id.lower(), repo_id, record), rows[0].commit
        if info is None:
            age = max(0.0, time.time() - rows[0].checked_at)
            return from_rows(RepoInfo(repo_id, "ok", commit=commit, age=age), rows, complete=False)
        return from_rows(info._replace(commit=commit), rows, complete=False)

    def _in_cache(self, repo_id: str, revision: str | None) -> Listing | None:
        here = self._sources.cached(repo_id, revision)
        if here is None or here.path is None:
            return None
        description = describe_folder(Path(here.path), name=here.repo_id)
        info = RepoInfo(here.repo_id, "ok", commit=here.commit)
        return Listing(info, recognize(description), description=description)

    def _info(self, key: str, repo_id: str, record: NameRecord | None) -> RepoInfo | None:
        if record is None:
            return self._sources.stored_info(key)
        for mirror, _, row in record.mirrors:
            if mirror.repo_id == repo_id:
                return None if row is None else self._sources.stored_info(key, row)
        return None

    def _variant_rows(
        self, key: str, format: str | None, options: ResolveOptions, *, needs_all: bool
    ) -> list[VariantRow]:
        """What the database has of a repository: no more than the choice needs, where it can."""
        if format is None or options.fit is not None:
            return self._variants.all(key)
        wanted = options.variant and variant_key(options.variant)
        rows = self._variants.few([key], format, wanted).get(key, [])
        found = any(row.format == format for row in rows)
        # Of a name whose mirrors are known, what else it holds itself does not matter.
        return rows if found or not needs_all else self._variants.all(key)

    def _add_access(self, asked: Ask, listings: dict[str, Listing | None]) -> None:
        listing = listings[asked.repo_id.lower()]
        assert listing is not None
        info = self._sources.with_access(listing.info)
        if info.access == "unknown" and not info.message:
            info = info._replace(message="unknown")
        listings[asked.repo_id.lower()] = listing._replace(info=info)

    # -- the model tree ---------------------------------------------------------------------

    def _tree_read(self, request: ResolveRequest, record: NameRecord) -> float | None:
        """When the model tree was read, where that matters."""
        if not request.online and all(row.source != HUB_TREE for row, _, _ in record.mirrors):
            return None
        read = self._variants.tree_read_at(request.name.key)
        if read is None or (request.online and time.time() - read > _TREE):
            return None
        return read

    def _read_tree(self, name: str, listings: dict[str, Listing | None]) -> NameRecord:
        """Ask the Hub what is quantized from a name, and remember it: one request."""
        from mdl.resolver.stored.model_tree import list_row, remember_tree, tree_rows

        found = [list_row(info) for info in self._sources.hub.quantized_of(name)]
        settings = self._sources.settings
        rows = list(tree_rows(name, found, settings.trusted, settings.distrusted))
        self._sources.write(lambda: remember_tree(self._sources.catalog, name, rows))
        self._sources.keep_all(listing.info for listing in found)
        self._sources.write(
            lambda: self._variants.remember_newer(
                (each.key, each.info.commit, to_rows(each))
                for each in found
                if not each.info.is_private
            )
        )
        for listing in found:
            listings.setdefault(listing.key, listing)
        record = self._sources.about(name.lower())
        if not any(row.source == HUB_TREE for row, _, _ in record.mirrors):  # a read-only database
            added = tuple((row, None, None) for row in rows)
            record = record._replace(mirrors=(*record.mirrors, *added))
        return record


def with_cached_files(resolution: Resolution) -> Resolution:
    """The resolution with what the cache has of its files, rather than of the whole repository."""
    here = resolution.cached
    if here is None or here.path is None or resolution.files is None:
        return resolution
    sizes = []
    for file in resolution.files:
        try:
            sizes.append((Path(here.path) / file.path).stat().st_size)
        except OSError:
            continue
    complete = len(sizes) == len(resolution.files)
    return resolution._replace(cached=here._replace(complete=complete, bytes=sum(sizes)))
