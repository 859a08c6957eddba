# From a bare clone, with Python 3.11 or newer, a C++ compiler and git:
#
#   make demo     an unmodified Hugging Face Flax BERT, with and without zenith_mlir
#   make test     linters, types, warnings of the C++ compiler, pytest and lit; again on the newest JAX where a second
#                 Python can run it
#   make check    pytest and lit only
#   make kernels  builds the kernels into build/, for a checkout on PYTHONPATH
#   make sanitize the tests of the kernels under the address, undefined-behaviour and thread sanitizers
#   make clean
#
# Everything is installed into .venv, editable, and again when the build or a kernel changes.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN = $(VENV)/bin
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard kernels/cpu/*.cc kernels/cpu/*.h kernels/cpu/vec/*.h kernels/cpu/*.map)

# JAX 0.10 is the newest that runs on Python 3.11. Where that is $(PYTHON), the first newer one that works, on PATH or
# among pyenv's, gets an environment of its own.
NEWER_PYTHON ?= $(shell $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))' && \
  for python in python3.12 python3.13 $$(ls -d "$$(pyenv root 2>/dev/null)"/versions/3.1[23].*/bin/python 2>/dev/null); \
  do "$$python" -c 'import venv' 2>/dev/null && echo "$$python" && break; done)

export HF_HUB_OFFLINE = 1

# What the kernels are built with.
BUILD = cmake.define.ZENITH_WERROR=ON

.PHONY: demo test environments check lint kernels sanitize newer-environment test-jax012 clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/bert_demo.py

test: environments lint check $(if $(NEWER_PYTHON),test-jax012)

# Both at once: they wait for the network more than for a processor.
environments:
	$(MAKE) -j 2 $(VENV)/test.stamp $(if $(NEWER_PYTHON),newer-environment)

check: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 2 $(SELECT) test
	$(BIN)/lit -j 2 test/lit

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

kernels: $(VENV)/test.stamp
	$(BIN)/cmake -S . -B build -DPython3_EXECUTABLE="$(abspath $(BIN))/python"
	$(BIN)/cmake --build build -j $(JOBS)

# The sanitizers' runtimes have to be loaded first, python itself leaks at its end, and pytest must leave file
# descriptor 2 to the reports. GCC 13 aligns the frames that it moves to the heap to 32 bytes, whatever vectors are in them
# (GCC bug 110027): they stay on the stack. Of JAX and NumPy, which are not instrumented, the thread sanitizer would see malloc, free
# and memcpy but not what orders them: these calls count as no access. What XLA's queues order it is told in
# kernels/cpu/hand_over.h.
SANITIZED = test/unit/test_kernel_*.py test/unit/test_vec_math.py test/unit/test_instruction_sets.py
sanitize: $(VENV)/test.stamp
	@for kind in address,undefined thread; do \
	  build="$(CURDIR)/build/sanitize-$${kind%%,*}"; \
	  $(BIN)/cmake -S . -B "$$build" -DZENITH_SANITIZE=$$kind -DPython3_EXECUTABLE="$(abspath $(BIN))/python" && \
	  $(BIN)/cmake --build "$$build" -j $(JOBS) && \
	  env LD_PRELOAD="$$(c++ -print-file-name=lib$$(echo $$kind | cut -c1)san.so) $$(c++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    TSAN_OPTIONS="ignore_interceptors_accesses=1 exitcode=66" \
	    ZENITH_CPU_LIBRARY="$$build/libzenith_cpu.so" JAX_PLATFORMS=cpu ZENITH_TEST_ALL=1 \
	    $(BIN)/python -m pytest -q -p no:xdist --capture=sys $(SANITIZED) || exit 1; \
	done

NEWER = PYTHON="$(NEWER_PYTHON)" VENV=.venv-jax012 NEWER_PYTHON= BUILD=cmake.define.ZENITH_OPTIMISE=-O0

newer-environment:
	@test -n "$(NEWER_PYTHON)" || { echo "No Python 3.12 found; name one: make $(MAKECMDGOALS) NEWER_PYTHON=..."; exit 1; }
	$(MAKE) $(NEWER) .venv-jax012/test.stamp

# With the kernels that $(BIN) has, as one library serves every Python and JAX; its own are built in a hurry.
# Of the tests that JAX's version can change, one in so many runs on the newer one; with ONE_IN=1 all do. They are compiled
# as XLA compiles for a user, not in a hurry as in test/conftest.py.
ONE_IN = 3
test-jax012: $(VENV)/test.stamp newer-environment
	XLA_FLAGS= ZENITH_CPU_LIBRARY="$$($(BIN)/python -c 'from zenith_mlir.kernels.cpu import library; print(library.load()._name)')" \
	  $(MAKE) check $(NEWER) SELECT='-m "not once" --one-in $(ONE_IN)'

# $(VENV)/demo.stamp installs the extra "demo", $(VENV)/test.stamp the extra "test".
$(VENV)/%.stamp: $(BUILT_FROM)
	@$(PYTHON) -c 'import sys; sys.exit("zenith_mlir needs Python 3.11 or newer, this is " + sys.version.split()[0] + \
	  "; name another: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --config-settings=$(BUILD) --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv .venv-jax012 build
