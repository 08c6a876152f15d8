// A host that ends Python and starts it again: again PYTHON
#include <pybind11/embed.h>

#include <iostream>

namespace py = pybind11;

int main(int, char** argv) {
  for (int turn = 0; turn < 2; ++turn) {
    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    PyConfig_SetBytesString(&config, &config.program_name, argv[1]);
    py::initialize_interpreter(&config, 0, nullptr, false);
    try {
      py::module_::import("gte_runtime");
      std::cout << "imported\n" << std::flush;
    } catch (py::error_already_set& error) {
      std::cout << std::string(py::str(error.type().attr("__name__"))) << ": " << std::string(py::str(error.value())) << '\n' << std::flush;
    }
    if (turn == 0) py::finalize_interpreter();
  }
  std::_Exit(0);
}
