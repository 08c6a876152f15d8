"""`gte serve`: one process that speaks the dialects of OpenAI, infinity, TEI, Cohere and Jina, and its own.

protocol   bytes of a connection, its limits and deadlines; the only module that knows uvicorn's insides
app        a request's way: route, key, readiness, handler, answer; knows no dialect
dialects/  one file per dialect: its requests, answers and error bodies; knows no queue
encoding   texts of a request -> tokens -> the queue -> what the model says of them
scheduler  who runs next, and with whom; pure, the clock is an argument
dispatch   the scheduler's answers carried out in threads
engine     one model: tokenize, plan, run a batch
refusals   every error of the server, with its status in each dialect
"""
