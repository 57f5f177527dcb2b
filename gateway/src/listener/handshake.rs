//! TLS handshakes, in three rooms: who is silent, who waits for its turn, and who is slow to answer.
//!
//! A silent connection costs nothing but itself, so a newer one displaces the oldest. Who has spoken costs the server a signature, and waits
//! for it in order: where thousands come at once (a gateway was restarted), displacing them would throw away work that is done again at their
//! next attempt. A turn ends after a moment even if the other side does not answer; it then shares a room with its like, in which again
//! the oldest makes room.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use depin_identity::SigningKey;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::ReadBuf,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_rustls::{Accept, LazyConfigAcceptor, StartHandshake, rustls::server::Acceptor, server::TlsStream};

use super::{
    Ending,
    crowd::{Crowd, Member},
};
use crate::tls_files::Served;

/// For the first bytes, and for the answer: two round trips of the slowest line.
const PATIENCE: Duration = Duration::from_secs(10);
/// In the queue: who came before has its turn first.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a turn lasts at most: an answer over most lines takes less.
const TURN: Duration = Duration::from_millis(500);
/// So many wait for each turn at most.
const WAITING: usize = 10;

/// The handshakes of one port.
pub(super) struct Handshakes {
    settings: watch::Receiver<Served>,
    silent: Crowd,
    waiting: Crowd,
    turns: Arc<Semaphore>,
    slow: Crowd,
    count: Gauge,
}

/// A handshake that is under way, for whoever counts them.
struct UnderWay<'a>(&'a Gauge);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a Gauge) -> Self {
        count.inc();
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Handshakes {
    /// So many silent ones, turns, and slow ones; `count` follows how many handshakes are under way.
    pub(super) fn new(settings: watch::Receiver<Served>, most: usize, count: Gauge) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS / WAITING);
        Self {
            settings,
            silent: Crowd::new(most, Gauge::default()),
            waiting: Crowd::new(most * WAITING, Gauge::default()),
            turns: Arc::new(Semaphore::new(most)),
            slow: Crowd::new(most, Gauge::default()),
            count,
        }
    }

    /// A place for a connection that has said nothing yet.
    pub(super) fn enter(&self) -> Member {
        self.silent.enter()
    }

    /// The stream, and the key of the certificate that the other side was shown.
    pub(super) async fn shake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        silent: Member,
    ) -> Result<(TlsStream<TcpStream>, Arc<SigningKey>), Ending> {
        let _under_way = UnderWay::begin(&self.count);
        let failed = |error: io::Error| {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            Ending::HandshakeFailed
        };
        stream.set_nodelay(true).map_err(failed)?;
        let hello = hear(stream, silent).await?.map_err(failed)?;
        let turn = self.turn().await?;
        if gone(&hello.io).await {
            return Err(Ending::HandshakeGivenUp);
        }
        // Newest when its turn comes.
        let served = self.settings.borrow().clone();
        let answered = self.answered(hello.into_stream(served.config), turn).await?;
        Ok((answered.map_err(failed)?, served.key))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Ending> {
        let waiting = self.waiting.enter();
        let turns = Arc::clone(&self.turns).acquire_owned();
        tokio::select! {
            biased;
            // Never closed.
            turn = tokio::time::timeout(QUEUE_PATIENCE, turns) => turn.ok().and_then(Result::ok).ok_or(Ending::HandshakeSlow),
            () = waiting.displaced.cancelled() => Err(Ending::HandshakesCrowded),
        }
    }

    /// The other side's part, within its turn if it is quick.
    async fn answered(
        &self,
        mut accept: Accept<TcpStream>,
        turn: OwnedSemaphorePermit,
    ) -> Result<io::Result<TlsStream<TcpStream>>, Ending> {
        let began = Instant::now();
        if let Ok(answered) = timeout_at(began + TURN, &mut accept).await {
            return Ok(answered);
        }
        drop(turn);
        let slow = self.slow.enter();
        tokio::select! {
            biased;
            answered = timeout_at(began + PATIENCE, accept) => answered.map_err(|_| Ending::HandshakeSlow),
            () = slow.displaced.cancelled() => Err(Ending::HandshakesCrowded),
        }
    }
}

/// The first message.
async fn hear(stream: TcpStream, silent: Member) -> Result<io::Result<StartHandshake<TcpStream>>, Ending> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
    tokio::select! {
        // Who has spoken is not silent, even where its place was taken in the same moment.
        biased;
        hello = tokio::time::timeout(PATIENCE, hello) => hello.map_err(|_| Ending::HandshakeSlow),
        () = silent.displaced.cancelled() => Err(Ending::HandshakesCrowded),
    }
}

/// Whether the other side has closed the connection since its hello.
async fn gone(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let peeked = poll_fn(|cx| Poll::Ready(stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)))).await;
    matches!(peeked, Poll::Ready(Ok(0) | Err(_)))
}
