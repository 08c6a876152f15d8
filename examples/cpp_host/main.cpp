// Embeds the lines of stdin from several threads at once and writes float32 rows, in the lines' order, to a file.
//   gte_host PYTHON MODEL THREADS OUTPUT [ROUNDS] < lines
#include <fstream>
#include <iostream>
#include <thread>
#include <vector>

#include "gte.hpp"

namespace {

constexpr std::size_t kTogether = 16;

// Memory of this process in MB, 0 where the system does not tell.
double resident() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0, pages = 0;
  statm >> total >> pages;
  return static_cast<double>(pages) * 4096 / 1e6;
}

// Every thread takes the next few texts until none are left. Results are kept as they are, without a copy.
std::vector<gte::Embeddings> embed(const gte::Engine& engine, std::span<const std::string> texts, int threads) {
  const std::size_t parts = (texts.size() + kTogether - 1) / kTogether;
  std::vector<std::shared_ptr<gte::Embeddings>> done(parts);
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      try {
        for (std::size_t part = next++; part < parts && !failed; part = next++) {
          const auto first = part * kTogether;
          done[part] = std::make_shared<gte::Embeddings>(engine.encode(texts.subspan(first, std::min(kTogether, texts.size() - first))));
        }
      } catch (...) {
        if (!failed.exchange(true)) failure = std::current_exception();
      }
    });
  }
  for (auto& worker : workers) worker.join();
  if (failure) std::rethrow_exception(failure);
  std::vector<gte::Embeddings> result;
  for (auto& part : done) result.push_back(*part);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::cerr << "usage: gte_host PYTHON MODEL THREADS OUTPUT [ROUNDS] < lines\n";
    return 2;
  }
  try {
    std::vector<std::string> texts;
    for (std::string line; std::getline(std::cin, line);) texts.push_back(line);
    gte::Python python(argv[1]);
    gte::Engine engine(argv[2]);
    const int rounds = argc > 5 ? std::stoi(argv[5]) : 1;
    for (int round = 0; round < rounds; ++round) {
      const auto results = embed(engine, texts, std::stoi(argv[3]));
      std::ofstream out(argv[4], std::ios::binary);
      for (const auto& part : results) {
        const auto rows = part.dense.all();
        out.write(reinterpret_cast<const char*>(rows.data()), static_cast<std::streamsize>(rows.size_bytes()));
      }
      std::cerr << "round " << round + 1 << ": " << texts.size() << " texts, " << resident() << " MB resident\n";
    }
  } catch (const gte::Error& error) {
    std::cerr << "gte_host: " << error.kind << ": " << error.what() << '\n';
    return 1;
  }
}
