// Reads {url, key, texts} and prints what each client got.
const { OpenAI } = require("openai");
const { CohereClientV2 } = require("cohere-ai");
const { InferenceClient } = require("@huggingface/inference");
const { readFileSync } = require("node:fs");

async function main({ url, key, texts }) {
  const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
  const vectors = async (options) => (await openai.embeddings.create({ model: "gte-mini", input: texts, ...options })).data.map((item) => item.embedding);
  const error = await openai.embeddings.create({ model: "gte-mini", input: [""] }).catch((e) => [e.status, e.code, e.param]);
  const models = (await openai.models.list()).data.map((model) => model.id);

  const cohere = new CohereClientV2({ token: key, environment: url });
  const embedded = await cohere.embed({ model: "gte-mini", texts, inputType: "search_document", embeddingTypes: ["float"] });
  const ranked = await cohere.rerank({ model: "gte-tiny-reranker", query: texts[0], documents: texts.slice(1), topN: 2 });

  const hub = new InferenceClient(key, { endpointUrl: url });
  return {
    openai: { vectors: await vectors({}), short: await vectors({ dimensions: 64 }), models, error },
    cohere: { vectors: embedded.embeddings.float, ranked: [ranked.results.map((item) => item.index), ranked.results.map((item) => item.relevanceScore)] },
    hub: { vectors: await hub.featureExtraction({ inputs: texts }) },
  };
}

main(JSON.parse(readFileSync(0, "utf8"))).then((got) => process.stdout.write(JSON.stringify(got)), (error) => { console.error(error); process.exit(1); });
