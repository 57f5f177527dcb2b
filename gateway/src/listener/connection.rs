//! An accepted connection: it holds its places until it is dropped, and ends when its time is over.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::Instant,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Ending, crowd::Member};
use crate::{metrics::Metrics, peer::Peer};

/// How long a connection may do what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a single request, or with a first one that does not come to its end.
    first_request: Duration,
    /// Without a certificate: a stranger needs to enroll and nothing else. It is answered at once, and may ask again on another connection.
    stranger: Duration,
}

const PATIENCE: Patience = Patience { first_request: Duration::from_secs(20), stranger: Duration::from_secs(120) };

/// Whether anything was asked on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<AtomicBool>);

impl Asked {
    /// A request has come.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn yet(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a connection holds as long as it lives.
pub(super) enum Held {
    /// One of the places for those who showed a certificate; the member is the caller's own crowd.
    Known { _place: OwnedSemaphorePermit, caller: Member },
    /// A place among strangers.
    Stranger(Member),
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    ending: Pin<Box<dyn Future<Output = Ending> + Send>>,
    ended: Option<Ending>,
    metrics: Arc<Metrics>,
}

impl Connection {
    pub(super) fn new(stream: TlsStream<TcpStream>, peer: Peer, held: Held, metrics: Arc<Metrics>) -> Self {
        let ending = Box::pin(ending(held, peer.asked.clone(), Instant::now(), PATIENCE));
        Self { stream, peer, ending, ended: None, metrics }
    }

    /// Whether its time is over.
    fn over(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.ended.is_none()
            && let Poll::Ready(ending) = self.ending.as_mut().poll(cx)
        {
            self.metrics.connection_ended(ending);
            tracing::debug!(address = %self.peer.address, reason = ending.name(), "a connection is ended");
            self.ended = Some(ending);
        }
        self.ended.map(|ending| io::Error::new(io::ErrorKind::TimedOut, ending.name()))
    }
}

/// Holds the places, and tells when the connection has to end, if ever.
async fn ending(held: Held, asked: Asked, began: Instant, patience: Patience) -> Ending {
    let asks = async {
        tokio::time::sleep_until(began + patience.first_request).await;
        if asked.yet() { std::future::pending().await } else { Ending::NoRequest }
    };
    match held {
        Held::Known { _place, caller } => tokio::select! {
            ending = asks => ending,
            () = caller.displaced.cancelled() => Ending::CallerCrowded,
        },
        Held::Stranger(member) => tokio::select! {
            ending = asks => ending,
            () = member.displaced.cancelled() => Ending::StrangersCrowded,
            () = tokio::time::sleep_until(began + patience.stranger) => Ending::StrangerAge,
        },
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.over(cx) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.over(cx) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::sync::Semaphore;

    use super::{super::crowd::Crowd, *};

    fn known() -> (Held, Crowd) {
        let crowd = Crowd::new(1, Gauge::default());
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Held::Known { _place: place, caller: crowd.enter() }, crowd)
    }

    const SHORT: Patience = Patience { first_request: Duration::from_millis(20), stranger: Duration::from_millis(60) };

    #[tokio::test]
    async fn who_asks_nothing_is_ended_and_who_asked_stays() {
        let asked = Asked::default();
        assert_eq!(ending(known().0, asked.clone(), Instant::now(), SHORT).await, Ending::NoRequest);
        asked.note();
        let stays = ending(known().0, asked.clone(), Instant::now(), SHORT);
        assert!(tokio::time::timeout(Duration::from_millis(200), stays).await.is_err());
        let stranger = Crowd::new(1, Gauge::default()).enter();
        let began = Instant::now();
        assert_eq!(ending(Held::Stranger(stranger), asked, began, SHORT).await, Ending::StrangerAge);
        assert!(began.elapsed() >= SHORT.stranger);
    }

    #[tokio::test]
    async fn a_newer_connection_of_the_same_caller_displaces_its_oldest() {
        let (held, crowd) = known();
        let _newer = crowd.enter();
        let asked = Asked::default();
        asked.note();
        assert_eq!(ending(held, asked, Instant::now(), SHORT).await, Ending::CallerCrowded);
    }
}
