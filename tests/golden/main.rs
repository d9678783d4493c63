//! Runs every golden record through the public library and prints a table per file.
//!
//! The folder is `INFERNO_GOLDEN_DIR`, by default `../shared/golden` beside the repository.
