//! Where a test's ledger is kept: what is tested of the trait is tested in each of them.

use std::sync::Arc;

use depin_domain::{ids::DeviceId, statistics::DeviceStatistics};
use depin_ledger::{EmbeddedLedger, Ledger, LedgerError, PostgresqlLedger, Server, Settings, Verification, verify};
use depin_log::{DiskStorage, Storage, simulated::SimulatedStorage};
use depin_trials::PostgresqlServer;

use super::{Hands, back_up, settings};

/// Keeps a ledger while it is closed.
pub trait Place: Clone + Sized {
    /// What is opened in it.
    type Kept: Ledger + Send + Sync + 'static;

    /// A new one without a ledger; none: there is no such thing on this machine.
    fn fresh() -> Option<Self>;

    /// Opens the ledger, which nobody serves yet.
    fn closed(&self, hands: &Hands, settings: Settings) -> Result<Self::Kept, LedgerError>;

    /// A device's statistics.
    async fn statistics(ledger: &Self::Kept, device: DeviceId) -> Option<DeviceStatistics>;

    /// A backup was made.
    async fn back_up(ledger: &Self::Kept);

    /// Scans the ledger, which is closed.
    async fn verify(&self, hands: &Hands) -> Verification;

    /// A ledger that proofs reach.
    fn open_with(&self, hands: &Hands, settings: Settings) -> Self::Kept {
        let ledger = self.closed(hands, settings).unwrap();
        ledger.serve(true);
        ledger
    }

    /// The same with the usual settings.
    fn open(&self, hands: &Hands) -> Self::Kept {
        self.open_with(hands, settings())
    }
}

/// The embedded ledger on a disk in memory.
#[derive(Clone, Debug)]
pub struct InMemory(pub SimulatedStorage);

impl Place for InMemory {
    type Kept = EmbeddedLedger;

    fn fresh() -> Option<Self> {
        Some(Self(SimulatedStorage::new()))
    }

    fn closed(&self, hands: &Hands, settings: Settings) -> Result<EmbeddedLedger, LedgerError> {
        EmbeddedLedger::open(Arc::new(self.0.clone()), settings, hands.clock())
    }

    async fn statistics(ledger: &EmbeddedLedger, device: DeviceId) -> Option<DeviceStatistics> {
        ledger.statistics(device).await.unwrap()
    }

    async fn back_up(ledger: &EmbeddedLedger) {
        back_up(ledger, &SimulatedStorage::new()).await.unwrap();
    }

    async fn verify(&self, _hands: &Hands) -> Verification {
        verify(Arc::new(self.0.clone()), &settings(), None).unwrap()
    }
}

/// The embedded ledger on the machine's disk: what is large.
#[derive(Clone, Debug)]
pub struct OnDisk(Arc<tempfile::TempDir>);

impl Place for OnDisk {
    type Kept = EmbeddedLedger;

    fn fresh() -> Option<Self> {
        Some(Self(Arc::new(tempfile::tempdir().unwrap())))
    }

    fn closed(&self, hands: &Hands, settings: Settings) -> Result<EmbeddedLedger, LedgerError> {
        EmbeddedLedger::open(self.storage(), settings, hands.clock())
    }

    async fn statistics(ledger: &EmbeddedLedger, device: DeviceId) -> Option<DeviceStatistics> {
        ledger.statistics(device).await.unwrap()
    }

    async fn back_up(ledger: &EmbeddedLedger) {
        back_up(ledger, &SimulatedStorage::new()).await.unwrap();
    }

    async fn verify(&self, _hands: &Hands) -> Verification {
        verify(self.storage(), &settings(), None).unwrap()
    }
}

impl OnDisk {
    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(DiskStorage::open(self.0.path().join("ledger")).unwrap())
    }
}

/// The PostgreSQL ledger in a database of its own on a real server.
#[derive(Clone, Debug)]
pub struct InDatabase {
    pub url: String,
}

impl Place for InDatabase {
    type Kept = PostgresqlLedger;

    fn fresh() -> Option<Self> {
        let server = PostgresqlServer::shared()?;
        Some(Self { url: server.url(&server.database().unwrap()) })
    }

    fn closed(&self, hands: &Hands, settings: Settings) -> Result<PostgresqlLedger, LedgerError> {
        PostgresqlLedger::open(Server::new(&self.url, None)?, settings, Some(hands.clock()))
    }

    async fn statistics(ledger: &PostgresqlLedger, device: DeviceId) -> Option<DeviceStatistics> {
        ledger.statistics(device).await.unwrap()
    }

    async fn back_up(ledger: &PostgresqlLedger) {
        let begun = ledger.begin_backup().await.unwrap();
        ledger.complete_backup(begun).await.unwrap();
    }

    async fn verify(&self, hands: &Hands) -> Verification {
        self.closed(hands, settings()).unwrap().verify(None).await.unwrap()
    }
}

/// Runs tests of the trait in several places, each under its own name.
#[macro_export]
macro_rules! in_places {
    ($($module:ident: $place:ty;)* => $tests:tt) => {
        $($crate::in_places!(@module $module $place $tests);)*
    };
    (@module $module:ident $place:ty { $($test:ident)* }) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if let Some(place) = <$place as super::network::Place>::fresh() {
                        super::$test(&place);
                    }
                }
            )*
        }
    };
}
