// What examples/cpp_host/gte.hpp promises, looked at from C++: checks PYTHON BUNDLE
#include <csignal>
#include <cstring>
#include <iostream>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "gte.hpp"

extern char** environ;

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::cerr << "FAILED: " << what << '\n';
  std::_Exit(1);
}

// What a library must leave alone in its host.
struct Surroundings {
  std::map<int, void*> handlers;
  std::vector<std::string> environment;
  std::string folder;
  bool operator==(const Surroundings&) const = default;
};

Surroundings look() {
  Surroundings now;
  for (int number : {SIGINT, SIGTERM, SIGPIPE, SIGSEGV, SIGCHLD, SIGUSR1}) {
    struct sigaction action;
    sigaction(number, nullptr, &action);
    now.handlers[number] = reinterpret_cast<void*>(action.sa_handler);
  }
  for (char** entry = environ; *entry; ++entry) now.environment.push_back(*entry);
  char path[4096];
  now.folder = getcwd(path, sizeof path);
  return now;
}

void host_handler(int) {}

template <class Work>
std::string kind_of(Work&& work) {
  try {
    work();
  } catch (const gte::Error& error) {
    return error.kind + ": " + error.what();
  }
  return "nothing";
}

bool starts(const std::string& text, const char* with) { return text.rfind(with, 0) == 0; }

void errors(const gte::Engine& engine, const std::string& bundle) {
  require(starts(kind_of([] { gte::Engine nothing("no-such-model"); }), "BundleError: 'no-such-model' is neither"), "an unknown model");
  gte::Engine second(bundle, 1);  // after a failure, and beside another one
  require(second.encode(std::vector<std::string>{"a"}).dense.rows() == 1, "an engine after a failed one");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const std::vector<std::string> bad{"good", "\xff\xfe"};
      for (int turn = 0; turn < 25; ++turn) {
        require(kind_of([&] { engine.encode(bad); }) == "InputError: texts[1]: not valid UTF-8", "bytes that are no text");
        require(starts(kind_of([&] { engine.encode(std::vector<std::string>{"a"}, 9999); }), "ConfigError: dim is 9999"), "a bad option");
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

void no_copies() {
  gte::in_python([] {
    gte::py::array_t<float> array(std::vector<gte::py::ssize_t>{3, 4});
    gte::Array<float> view(array);
    require(view.all().data() == array.data(), "the memory is numpy's own");
    require(view.rows() == 3 && view.columns() == 4 && view.row(2).data() == array.data() + 8, "rows");
  });
}

void after_fork(const gte::Engine& engine) {
  const pid_t child = fork();
  if (child == 0) {
    const auto said = kind_of([&] { engine.encode(std::vector<std::string>{"a"}); });
    _exit(starts(said, "ForkedProcessError") ? 0 : 1);
  }
  int status = 1;
  for (int tenths = 0; tenths < 100 && waitpid(child, &status, WNOHANG) == 0; ++tenths) usleep(100000);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of fork() is told, at once");
}

double sum(const gte::Embeddings& out) {
  double total = 0;
  for (float value : out.dense.all()) total += value;
  for (float value : out.values.all()) total += value;
  for (auto index : out.indices.all()) total += index;
  return total + static_cast<double>(out.begins.all().back());
}

}  // namespace

int main(int, char** argv) {
  const std::string bundle = argv[2];
  std::signal(SIGINT, host_handler);
  std::signal(SIGPIPE, SIG_DFL);
  const Surroundings before = look();
  std::optional<gte::Embeddings> kept;
  double total = 0;
  {
    gte::Python python(argv[1]);
    require(starts(kind_of([&] { gte::Python again(argv[1]); }), "InterpreterError: Python runs in this process already"), "Python runs already");
    gte::Engine engine(bundle);
    const std::vector<std::string> texts{"北京", "what is the capital of China?", ""};
    kept = engine.encode(texts);
    require(kept->dense.rows() == 3 && kept->begins.all().size() == 4, "three texts");
    require(kept->indices.all().size() == kept->values.all().size() && kept->begins.all().back() > 0, "sparse entries");
    require(engine.encode(std::vector<std::string>{}).dense.rows() == 0, "no texts");
    require(engine.encode(texts, 32).dense.columns() == 32, "a cut");
    require(look() == before, "signals, environment and folder are the host's");
    no_copies();
    errors(engine, bundle);
    after_fork(engine);
    total = sum(*kept);
  }
  require(starts(kind_of([&] { gte::Python again(argv[1]); }), "InterpreterError: Python can be started once"), "Python is started once");
  require(sum(*kept) == total, "results outlive the engine and Python");
  kept.reset();
  require(look() == before, "signals, environment and folder are the host's, at the end too");
  std::cout << "all fine\n";
}
