"""A model behind an OpenAI-compatible endpoint as the teacher.

address   where the endpoint is, and the key's place      limits   how fast and how many at once, as learnt
wire      JSON and HTTP words in, records out              gate     the limits, for coroutines
breaker   when going on makes no sense                     client   one request with its retries; many at once
budget    what may be spent                                writer   many answers, one commit
durable   ask what is missing, store what comes            estimate what a run will cost
"""
