//! A site's line to the gateway, which a test can cut.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

pub(crate) struct Link {
    address: SocketAddr,
    up: watch::Sender<bool>,
    forwarding: AbortHandle,
}

impl Link {
    /// A line that is up.
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let up = watch::Sender::new(true);
        let state = up.subscribe();
        let forwarding = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if !*state.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(gateway).await else { return };
                    tokio::select! {
                        // However it ends: both sides see a connection that broke.
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|up| !up) => {}
                    }
                });
            }
        });
        Self { address, up, forwarding: forwarding.abort_handle() }
    }

    /// The gateway as the site sees it.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Every connection breaks, and none is made.
    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.up.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}
