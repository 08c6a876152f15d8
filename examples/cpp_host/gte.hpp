// gte-runtime inside a C++20 program.
//
//   gte::Python python("/path/to/venv/bin/python");   // once, first thing in main, gone last
//   gte::Engine engine("gte-mini");                   // any number of them, used from any thread
//   gte::Embeddings out = engine.encode(texts);       // out.dense.row(0): std::span<const float>
//
// Rules: Python is started once per process and ended by the thread that started it; threads that use
// an engine are joined before it is destroyed. Everything else is safe from every thread. A program that
// runs Python already leaves gte::Python out.
#pragma once

#include <pybind11/embed.h>
#include <pybind11/numpy.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace gte {

namespace py = pybind11;

// Any failure, in plain C++: `kind` is the Python class ("InputError", "BundleError", ...), what() its message.
struct Error : std::runtime_error {
  Error(std::string kind, const std::string& message) : std::runtime_error(message), kind(std::move(kind)) {}
  std::string kind;
};

// Work with the interpreter's lock held. No Python exception leaves this function, so none can outlive Python.
template <class Work>
auto in_python(Work&& work) {
  py::gil_scoped_acquire lock;
  try {
    return work();
  } catch (py::error_already_set& error) {
    throw Error(py::str(error.type().attr("__name__")), py::str(error.value()));
  }
}

class Python {
 public:
  // The interpreter of a virtual environment. Environment variables, signals and argv are left alone.
  explicit Python(const std::string& executable) {
    static std::atomic<bool> started{false};
    if (Py_IsInitialized()) throw Error("InterpreterError", "Python runs in this process already; make engines without gte::Python");
    if (started.exchange(true)) throw Error("InterpreterError", "Python can be started once in a process: numpy cannot be loaded twice");
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    PyConfig_SetBytesString(&config, &config.program_name, executable.c_str());
    try {
      py::initialize_interpreter(&config, 0, nullptr, false);
    } catch (const std::exception& error) {
      throw Error("InterpreterError", error.what());
    }
    main_ = PyEval_SaveThread();  // from here on every thread takes the lock for itself, this one too
  }
  ~Python() {
    PyEval_RestoreThread(main_);
    py::finalize_interpreter();
  }
  Python(const Python&) = delete;
  Python& operator=(const Python&) = delete;

 private:
  PyThreadState* main_;
};

// A numpy array's memory without a copy. May outlive its engine, and even Python.
template <class T>
class Array {
 public:
  explicit Array(const py::object& object) : Array(py::array_t<T, py::array::c_style>(object)) {}
  explicit Array(py::array_t<T, py::array::c_style> array)
      : data_(array.data(), static_cast<std::size_t>(array.size())),
        columns_(array.ndim() == 2 ? static_cast<std::size_t>(array.shape(1)) : 1),
        owner_(new py::object(std::move(array)), [](py::object* object) {
          if (Py_IsInitialized()) {
            py::gil_scoped_acquire lock;
            delete object;
          } else {
            object->release();  // nobody is left to take the memory back
            delete object;
          }
        }) {}
  std::span<const T> all() const { return data_; }
  std::span<const T> row(std::size_t index) const { return data_.subspan(index * columns_, columns_); }
  std::size_t rows() const { return columns_ ? data_.size() / columns_ : 0; }
  std::size_t columns() const { return columns_; }

 private:
  std::span<const T> data_;
  std::size_t columns_;
  std::shared_ptr<py::object> owner_;
};

struct Embeddings {
  Array<float> dense;           // one row per text, of length 1
  Array<std::int64_t> begins;   // text i has the sparse entries [begins[i], begins[i + 1])
  Array<std::int32_t> indices;  // token ids, ascending within a text
  Array<float> values;          // their weights
};

class Engine {
 public:
  explicit Engine(const std::string& model, int threads = 0)
      : embedder_(in_python([&] {
          py::object open = py::module_::import("gte_runtime").attr("Embedder").attr("open");
          py::object count = threads > 0 ? py::object(py::int_(threads)) : py::object(py::none());
          return new py::object(open(model, py::arg("threads") = count));
        })) {}
  ~Engine() {
    if (!Py_IsInitialized()) {  // destroyed too late: nothing is left to close
      embedder_->release();
      return;
    }
    py::gil_scoped_acquire lock;
    try {
      embedder_->attr("close")();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("gte::Engine");
    }
    embedder_.reset();
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Vectors in the order of the texts (UTF-8). dim > 0 cuts dense vectors before they are normalised.
  Embeddings encode(std::span<const std::string> texts, int dim = 0) const {
    return in_python([&] {
      py::list list(texts.size());
      for (std::size_t i = 0; i < texts.size(); ++i) list[i] = text(texts[i], i);
      py::object out = embedder_->attr("encode")(list, py::arg("dim") = dim > 0 ? py::object(py::int_(dim)) : py::object(py::none()));
      py::object csr = out.attr("sparse").attr("to_csr")();
      return Embeddings{Array<float>(out.attr("dense")), Array<std::int64_t>(csr.attr("indptr")),
                        Array<std::int32_t>(csr.attr("indices")), Array<float>(csr.attr("data"))};
    });
  }

 private:
  static py::object text(const std::string& bytes, std::size_t index) {
    PyObject* string = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), nullptr);
    if (string) return py::reinterpret_steal<py::object>(string);
    PyErr_Clear();
    throw Error("InputError", "texts[" + std::to_string(index) + "]: not valid UTF-8");
  }
  std::unique_ptr<py::object> embedder_;
};

}  // namespace gte
