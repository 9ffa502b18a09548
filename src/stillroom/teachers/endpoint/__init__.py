"""A model behind an OpenAI-compatible endpoint as the teacher.

durable    ask what is missing, store what comes        estimate   what a run will take, from a sample
client     one request with its retries; many at once   pool       many rows, each on its own
wire       HTTP's and JSON's words in, records out      address    where the endpoint is, and the key's place
limits     how fast and how many at once, as learnt     gate       the limits, for coroutines
budget     what may be spent                            ledger     what has been, kept in the store
writer     many answers, one commit                     breaker    when going on makes no sense
standing   how far a run is
"""
