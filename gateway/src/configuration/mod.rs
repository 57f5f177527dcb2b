//! Configuration: what an agent must know, pushed as the registry changes; what it tells of itself.

mod service;
mod view;

pub(crate) use service::ConfigurationService;
