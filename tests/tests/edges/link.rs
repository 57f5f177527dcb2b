//! A site's line to the gateway, which a test can cut.

use std::net::SocketAddr;

use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// What the gateway says arrives; what the site says waits.
    Held,
    Cut,
}

pub(crate) struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    forwarding: AbortHandle,
}

impl Link {
    /// A line that is up.
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = watch::Sender::new(State::Up);
        let states = state.subscribe();
        let forwarding = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut states = states.clone();
                tokio::spawn(async move {
                    if *states.borrow_and_update() == State::Cut {
                        return;
                    }
                    let Ok(far) = TcpStream::connect(gateway).await else { return };
                    let ((from_site, mut to_site), (mut from_gateway, to_gateway)) =
                        (near.into_split(), far.into_split());
                    // However it ends: both sides see a connection that broke.
                    tokio::select! {
                        _ = carry_up(from_site, to_gateway, states.clone()) => {}
                        _ = io::copy(&mut from_gateway, &mut to_site) => {}
                        _ = states.wait_for(|state| *state == State::Cut) => {}
                    }
                });
            }
        });
        Self { address, state, forwarding: forwarding.abort_handle() }
    }

    /// The gateway as the site sees it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Every connection breaks, and none is made.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// What the site says waits on the line until it is mended, in order and whole.
    pub(crate) fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Up);
    }
}

async fn carry_up(
    mut site: impl AsyncRead + Unpin,
    mut gateway: impl AsyncWrite + Unpin,
    mut states: watch::Receiver<State>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1_024];
    loop {
        let length = site.read(&mut bytes).await?;
        if length == 0 {
            return gateway.shutdown().await;
        }
        if states.wait_for(|state| *state != State::Held).await.is_err() {
            return Ok(());
        }
        gateway.write_all(&bytes[..length]).await?;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}
