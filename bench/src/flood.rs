//! Callers that mean no good, at a steady rate: what honest agents must not notice.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use depin_identity::SigningKey;
use depin_proto::v1::{self, enrollment_client::EnrollmentClient, proofs_client::ProofsClient};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{self, Instant},
};
use tonic::transport::Channel;

use crate::network::{self, Authority};

/// How long a caller stays who is not ended.
const STAY: Duration = Duration::from_secs(5);
/// Between two bytes of one who is slow on purpose.
const DRIP: Duration = Duration::from_millis(200);
/// More than a message may have.
const OVERSIZED: usize = 8 << 20;
const KINDS: [Kind; 6] = [Kind::Silent, Kind::Slow, Kind::Greeting, Kind::Garbage, Kind::Stranger, Kind::Foreign];
/// One stranger in so many sends a message that is too large; the others only ask.
const OVERSIZED_EVERY: u64 = 50;

/// How much.
#[derive(Args)]
pub(crate) struct Options {
    /// The gateway, https://HOST:PORT
    #[arg(long)]
    gateway: String,
    /// Folder that `prepare` filled
    #[arg(long)]
    dir: PathBuf,
    /// New connections a second, of all kinds together
    #[arg(long, default_value_t = 600)]
    rate: u32,
    /// For so many seconds
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Connects and says nothing.
    Silent,
    /// Says its first message a byte at a time.
    Slow,
    /// Says its first message, and answers nothing.
    Greeting,
    /// Says what is no TLS.
    Garbage,
    /// Has no certificate.
    Stranger,
    /// Has a certificate of another authority.
    Foreign,
}

/// What all callers share.
struct Flood {
    gateway: String,
    address: String,
    hello: Vec<u8>,
    authority: Authority,
    foreign: Authority,
    served: AtomicU64,
    refused: AtomicU64,
}

/// Floods, and fails if anybody of it was served.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let authority = Authority::open(&options.dir)?;
    let flood = Arc::new(Flood {
        gateway: options.gateway.clone(),
        address: options.gateway.trim_start_matches("https://").to_owned(),
        hello: authority.hello()?,
        foreign: authority.imitated()?,
        authority,
        served: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let count = options.rate * options.seconds;
    let began = Instant::now();
    let mut callers = Vec::new();
    for number in 0..count {
        time::sleep_until(began + Duration::from_secs(1) * number / options.rate).await;
        callers.push(tokio::spawn(Arc::clone(&flood).call(u64::from(number))));
    }
    for caller in callers {
        caller.await?;
    }
    let (served, refused) = (flood.served.load(Ordering::Relaxed), flood.refused.load(Ordering::Relaxed));
    ensure!(served == 0, "{served} of {count} callers were served");
    println!("{}", json!({ "case": "flood", "callers": count, "rate": options.rate, "refused": refused }));
    Ok(())
}

impl Flood {
    async fn call(self: Arc<Self>, number: u64) {
        let kind = KINDS[usize::try_from(number).unwrap_or_default() % KINDS.len()];
        // What fails, fails for whoever floods: the gateway or the system has had enough of it.
        let outcome = time::timeout(STAY, async {
            match kind {
                Kind::Silent => self.hold(b"").await,
                Kind::Greeting => self.hold(&self.hello).await,
                Kind::Garbage => self.hold(&[b'x'; 16 << 10]).await,
                Kind::Slow => self.drip().await,
                Kind::Stranger => self.stranger(number).await,
                Kind::Foreign => self.foreigner().await,
            }
        });
        match outcome.await {
            Ok(Ok(true)) => self.served.fetch_add(1, Ordering::Relaxed),
            Ok(_) => self.refused.fetch_add(1, Ordering::Relaxed),
            // Still there: it went by itself.
            Err(_) => 0,
        };
    }

    /// Says this and waits for the end; nobody is served by that.
    async fn hold(&self, text: &[u8]) -> Result<bool> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(text).await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok(false)
    }

    async fn drip(&self) -> Result<bool> {
        let mut stream = TcpStream::connect(&self.address).await?;
        for byte in &self.hello {
            stream.write_all(&[*byte]).await?;
            time::sleep(DRIP).await;
        }
        Ok(false)
    }

    /// Asks as an agent does, without a certificate; true where it was let in.
    async fn stranger(&self, number: u64) -> Result<bool> {
        let channel = self.authority.stranger(&self.gateway)?;
        if (number / KINDS.len() as u64).is_multiple_of(OVERSIZED_EVERY) {
            let request = v1::EnrollRequest { csr: vec![0; OVERSIZED].into(), ..Default::default() };
            return Ok(EnrollmentClient::new(channel).enroll(request).await.is_ok());
        }
        submits(channel).await
    }

    async fn foreigner(&self) -> Result<bool> {
        let key = SigningKey::generate()?;
        submits(self.authority.connect_with(&self.gateway, &self.foreign, &network::peer("edge"), key)?).await
    }
}

async fn submits(channel: Channel) -> Result<bool> {
    let nothing = tokio_stream::empty::<v1::SubmitRequest>();
    Ok(ProofsClient::new(channel).submit(nothing).await.is_ok())
}
