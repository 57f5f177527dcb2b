//! The Helm chart: what it renders, whom it lets do what, and that a real API server takes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod helm;

mod installing;
mod monitoring;
mod people;
mod pods;
mod rendering;
mod rights;
mod score;
mod settings;
mod working;
