# What each target needs it sets up first: .venv with the requirements, and the carriers of models and data.
PYTHON ?= python3
BIN := .venv/bin
RNN2RAG := $(BIN)/rnn2rag

.PHONY: book lab notebooks exercises grade test zip bundle pdf tour
.DEFAULT_GOAL := book

book: .venv/ready
	$(RNN2RAG) book

lab: .venv/ready .venv/carriers
	$(RNN2RAG) lab

notebooks: .venv/ready .venv/carriers
	$(RNN2RAG) notebooks

exercises: .venv/ready
	$(RNN2RAG) exercises
	$(RNN2RAG) prove

# make grade SET=01-recurrent-networks [SUBMITTED=folder, zip or notebook]
grade: .venv/ready
	$(RNN2RAG) grade $(if $(SET),$(SET),$(error say which set: make grade SET=01-recurrent-networks)) $(if $(SUBMITTED),--submitted $(SUBMITTED))

test: .venv/ready .venv/carriers
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/run.py

zip: .venv/ready
	$(RNN2RAG) zip

# the whole course for machines like this one without a network
bundle: .venv/ready
	$(RNN2RAG) bundle

pdf: .venv/ready
	$(RNN2RAG) pdf

# every page as a picture, in light, in dark and on a phone
tour: .venv/ready
	$(BIN)/python benchmarks/tour.py

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rnn2rag needs Python 3.11 or newer; this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/carriers: rnn2rag/catalog.toml | .venv/ready
	$(RNN2RAG) fetch
	@touch $@
