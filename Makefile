# SPDX-License-Identifier: GPL-2.0-or-later
# Every target installs what it needs: Debian packages with apt (through sudo where that is
# needed), and a virtual environment in .venv. A second run finds everything there and is quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.NOTPARALLEL:

# Debian packages by purpose
PACKAGES_BUILD := python3 python3-venv python3-dev gcc libc6-dev libmilter-dev libarchive13
PACKAGES_LDAP  := libldap-dev libsasl2-dev
PACKAGES_DEMO  := $(PACKAGES_BUILD) postfix clamav-daemon
PACKAGES_TEST  := $(PACKAGES_DEMO) spamassassin spamd swaks miltertest postgresql dovecot-imapd chromium unbound slapd
PACKAGES_BENCH := $(PACKAGES_DEMO) rspamd
PACKAGES_EVALUATE := $(PACKAGES_BUILD) bogofilter spamassassin spamd rspamd

# Public collections of mail, and options such as --quick, for `make evaluate`
CORPUS := ../shared/corpus
EVALUATE :=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := contrib/install
# Tests run in two processes: each takes file after file, those with servers first, the short ones last.
# A database that is given to them has room for one process.
SIDE_BY_SIDE := $(if $(MAILWARDEN_TEST_DATABASE),,-n 2 --dist loadfile --no-loadscope-reorder)
# Postfix cannot run without root, and the test servers are started beside it.
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo "$(INSTALL)/as-root")

.PHONY: help install test lint demo bench bench-relay torture torture-milter evaluate conformance reference clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## install Mailwarden into .venv: .venv/bin/mailwarden
	@echo "$(BIN)/mailwarden is $$($(BIN)/mailwarden --version)"

test: $(VENV)/.installed-tests ## install what tests need, then run ruff, mypy and pytest
	@$(INSTALL)/packages $(PACKAGES_TEST)
	@failed=; \
	$(BIN)/ruff check . || failed="ruff check"; \
	$(BIN)/ruff format --check . || failed="$$failed, ruff format"; \
	$(BIN)/mypy || failed="$$failed, mypy"; \
	$(AS_ROOT) $(BIN)/python -m pytest $(SIDE_BY_SIDE) || failed="$$failed, pytest"; \
	[ -z "$$failed" ] || { echo "failed: $${failed#, }" >&2; exit 1; }

lint: $(VENV)/.installed-tests ## ruff and mypy only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(VENV)/.installed-tests ## send messages of all kinds through both doors and show what becomes of them
	@$(INSTALL)/packages $(PACKAGES_DEMO)
	@$(AS_ROOT) $(BIN)/python -m contrib.demo

bench: $(VENV)/.installed-tests ## compare with rspamd on the same mail, behind the same Postfix
	@$(INSTALL)/packages $(PACKAGES_BENCH)
	@$(AS_ROOT) $(BIN)/python -m contrib.bench $(ARGS)

bench-relay: $(VENV)/.installed-tests ## compare the smart host with Postfix as a plain relay
	@$(INSTALL)/packages $(PACKAGES_DEMO)
	@$(AS_ROOT) $(BIN)/python -m contrib.bench.relay $(ARGS)

torture: $(VENV)/.installed-tests ## kill the smart host's processes and fail its disks under load, and count every message
	@$(INSTALL)/packages $(PACKAGES_TEST)
	@$(AS_ROOT) $(BIN)/python -m contrib.torture $(ARGS)

torture-milter: $(VENV)/.installed-tests ## 1,000 messages while workers are killed: nothing lost, nothing unscanned
	@$(INSTALL)/packages $(PACKAGES_DEMO)
	@$(AS_ROOT) $(BIN)/python -m contrib.bench.durability

evaluate: $(VENV)/.installed-tests ## measure the classifier, beside other filters, on the mail of CORPUS
	@$(INSTALL)/packages $(PACKAGES_EVALUATE)
	@$(BIN)/python -m contrib.evaluate --corpus "$(CORPUS)" $(EVALUATE)

conformance: $(VENV)/.installed-tests ## run the public conformance suites, where they lie beside the checkout
	@$(BIN)/python -m contrib.conformance

reference: $(VENV)/.installed ## write contrib/mailwarden.toml anew from the settings in the source
	$(BIN)/python -m contrib.reference > contrib/mailwarden.toml.new
	mv contrib/mailwarden.toml.new contrib/mailwarden.toml

clean: ## remove what builds and tests leave; keep .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find gateway contrib tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

# ---- the virtual environment; its stamps are older than pyproject.toml when that has changed

$(VENV)/bin/python:
	@$(INSTALL)/packages $(PACKAGES_BUILD)
	@$(INSTALL)/venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@$(INSTALL)/packages $(PACKAGES_BUILD)
	@echo "Installing Mailwarden into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[train,web,oidc]'
	@touch $@

$(VENV)/.installed-tests: $(VENV)/.installed
	@$(INSTALL)/packages $(PACKAGES_LDAP)
	@echo "Installing what tests need into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[train,web,oidc,test,lint,postgresql,ldap]' hatchling
	@touch $@
