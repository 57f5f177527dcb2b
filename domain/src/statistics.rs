//! Exact statistics of accepted readings, one for each (device, assignment, grain, metric): what rewards are made of.
//!
//! Program-independent and mergeable; a scan of the ledger gives the same as the keeping at ingest.
