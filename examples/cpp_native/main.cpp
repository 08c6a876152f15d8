// Vectors of token ids, by ONNX Runtime's C++ API and nothing else.
//   gte_native GRAPH OUTPUT [DIM] < ids
// GRAPH is the portable graph of a bundle, with its weight files in the same folder. A line of stdin is one text: its ids
// with <s> and </s>, as `gte tokens` shows them. OUTPUT gets a float32 row for each; sparse weights go to stdout.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t kPad = 1;
const std::array<std::int64_t, 4> kDropped{0, 1, 2, 3};  // cls, pad, eos, unk: never part of a sparse vector

using Rows = std::vector<std::vector<std::int64_t>>;

Rows read(std::istream& in) {
  Rows rows;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    rows.emplace_back(std::istream_iterator<std::int64_t>(words), std::istream_iterator<std::int64_t>());
  }
  return rows;
}

// Cut first, then length 1; the other way round gives no unit vector.
void write(std::ostream& out, const float* cls, std::size_t dim) {
  double square = 0;
  for (std::size_t i = 0; i < dim; ++i) square += static_cast<double>(cls[i]) * cls[i];
  const double norm = std::max(std::sqrt(square), 1e-12);
  for (std::size_t i = 0; i < dim; ++i) {
    const auto value = static_cast<float>(cls[i] / norm);
    out.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

// Largest weight per token, special tokens and zeros left out: one line of id:weight.
void print(const std::vector<std::int64_t>& ids, const float* weights) {
  std::map<std::int64_t, float> entries;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (weights[i] > 0 && std::find(kDropped.begin(), kDropped.end(), ids[i]) == kDropped.end())
      entries[ids[i]] = std::max(entries[ids[i]], weights[i]);
  }
  const char* gap = "";
  for (const auto& [id, weight] : entries) {
    std::cout << gap << id << ':' << weight;
    gap = " ";
  }
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: gte_native GRAPH OUTPUT [DIM] < ids\n";
    return 2;
  }
  const Rows rows = read(std::cin);
  if (rows.empty()) return 0;
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());

  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // from 1.29 on ONNX Runtime reports sessions and graphs to its makers
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "gte_native");
  Ort::SessionOptions options;
  options.SetInterOpNumThreads(1);
  Ort::Session session(env, argv[1], options);

  std::vector<std::int64_t> ids(rows.size() * longest, kPad), mask(rows.size() * longest, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), ids.begin() + static_cast<std::ptrdiff_t>(i * longest));
    std::fill_n(mask.begin() + static_cast<std::ptrdiff_t>(i * longest), rows[i].size(), 1);
  }
  const std::array<std::int64_t, 2> shape{static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(longest)};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char* inputs[] = {"input_ids", "attention_mask"};
  const char* outputs[] = {"cls", "token_weights"};
  const std::array<Ort::Value, 2> feeds{
      Ort::Value::CreateTensor<std::int64_t>(memory, ids.data(), ids.size(), shape.data(), shape.size()),
      Ort::Value::CreateTensor<std::int64_t>(memory, mask.data(), mask.size(), shape.data(), shape.size())};
  const auto results = session.Run(Ort::RunOptions{nullptr}, inputs, feeds.data(), feeds.size(), outputs, 2);

  const auto width = static_cast<std::size_t>(results[0].GetTensorTypeAndShapeInfo().GetShape()[1]);
  const auto dim = argc > 3 ? std::min<std::size_t>(std::stoul(argv[3]), width) : width;
  std::ofstream out(argv[2], std::ios::binary);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    write(out, results[0].GetTensorData<float>() + i * width, dim);
    print(rows[i], results[1].GetTensorData<float>() + i * longest);
  }
  return out.flush() ? 0 : 6;
} catch (const Ort::Exception& error) {
  std::cerr << "gte_native: " << error.what() << '\n';
  return 1;
}
