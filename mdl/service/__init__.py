"""The HTTP face of resolver and cache: `mdl serve`.

`guard` stands before everything (who may speak, how much, for how long), `answers` asks the
resolver on behalf of a caller, `keeper` holds the cache's view, `api` and `page` are routes.
`client` is the other end: what MDL_SERVER makes `mdl resolve` use; it imports nothing of the rest.
"""
