"""`gte serve`: an HTTP server for clients of OpenAI, infinity, TEI, Cohere, Jina, vLLM and DashScope.

It knows HTTP, queues and clients; tokens and runs it leaves to `Embedder`, `Reranker` and their engines. Each
module imports only modules further down:

    serve       from models and options to a running process: signals, sockets, exit codes
    app         a request's way: route, key, readiness, handler, answer; the list of all routes
    protocol    HTTP connections, their limits and deadlines; the only module that knows uvicorn's internals
    dialects/   one file per dialect: its requests, answers and errors
    operation   health and metrics
    openapi     the description of all routes
    playground/ the page at `/`
    telemetry   spans for OpenTelemetry
    encoding    texts of a request -> tokens -> the queue -> the model's results
    routes      what is at a path
    exchange    one request and its answer
    body        a request's body, within limits
    state       what all requests share
    health      readiness
    dispatch    carries out the scheduler's decisions in threads
    metrics     counters for Prometheus
    models      one model: tokenize, plan, run a batch
    scheduler   which texts run next; pure
    refusals    every error and its status in each dialect; pure
    options     limits and switches
    logs        the log's format
"""
