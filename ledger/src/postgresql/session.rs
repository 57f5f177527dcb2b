//! One session of the writer, with its statements prepared once.

use std::{collections::HashMap, sync::PoisonError};

use tokio_postgres::{Client, Row, Statement, types::ToSql};

use super::connection::{failed, is_conflict};
use crate::error::LedgerError;

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another one was in its way: begun anew it may succeed.
    Conflict(LedgerError),
    /// The partition of this day is missing.
    MissingDay(i32),
    /// Anything else: the session is given up.
    Failed(LedgerError),
}

impl From<LedgerError> for Trouble {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error)
    }
}

impl From<Trouble> for LedgerError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Conflict(error) | Trouble::Failed(error) => error,
            Trouble::MissingDay(day) => Self::Unavailable(format!("the partition of day {day} is missing")),
        }
    }
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    prepared: std::sync::Mutex<HashMap<&'static str, Statement>>,
}

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(super) fn trouble(operation: &str, error: &tokio_postgres::Error) -> Trouble {
    let told = failed(operation, error);
    if is_conflict(error) { Trouble::Conflict(told) } else { Trouble::Failed(told) }
}

impl Session {
    pub(super) fn new(client: Client) -> Self {
        Self { client, prepared: std::sync::Mutex::default() }
    }

    pub(super) async fn statement(&self, sql: &'static str) -> Result<Statement, Trouble> {
        let known = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(sql).cloned();
        if let Some(statement) = found {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await.map_err(|error| trouble("prepare", &error))?;
        known().insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(
        &self,
        what: &str,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Trouble> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, parameters).await.map_err(|error| trouble(what, &error))
    }

    pub(super) async fn execute(
        &self,
        what: &str,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<u64, Trouble> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, parameters).await.map_err(|error| trouble(what, &error))
    }

    pub(super) async fn batch(&self, what: &str, sql: &str) -> Result<(), Trouble> {
        self.client.batch_execute(sql).await.map_err(|error| trouble(what, &error))
    }
}
