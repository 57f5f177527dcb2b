//! One connection of the listener: bytes in, acknowledgements out.
//!
//! Bytes are read only while there is room: a full window of unacknowledged messages or a full spool stops reading, and the
//! hardware waits. An acknowledgement is written only after its ticket is durable.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    ListenerOptions,
    packet::{self, Answer, Packet, PacketError, Parsed, Publish, Version, Welcome},
    sessions::{Hold, Sessions, made_up_name},
};
use crate::{
    intake::{Envelope, Intake, Offer},
    stop::stopped,
};

/// Messages of one connection that may wait for their acknowledgement.
pub(super) const WINDOW: u16 = 1_000;
/// CONNECT must come within this time.
const GREETING: Duration = Duration::from_secs(10);
/// Room for one read of a connection that sends much. It begins with [`FIRST`]: thousands of devices send a message now and then.
const READ: usize = 16 * 1024;
const FIRST: usize = 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Packet(#[from] PacketError),
    #[error("nothing came for one and a half keep-alive periods")]
    KeepAlive,
    #[error("QoS 2 is not taken; publish with QoS 1")]
    QosTwo,
    #[error("user name or password are wrong")]
    Credentials,
    #[error("an empty client identifier needs a clean session")]
    Client,
    #[error("a second CONNECT, or a topic alias, which was not offered")]
    Protocol,
    #[error("the client has a new connection")]
    TakenOver,
    /// As it should.
    #[error("closed")]
    Closed,
}

/// What all connections of a listener share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) intake: Arc<Intake>,
    pub(super) options: Arc<ListenerOptions>,
    pub(super) sessions: Arc<Sessions>,
}

/// A message that is too large, on its way past.
struct Oversize {
    topic: String,
    /// Packet identifier; 0 with QoS 0.
    packet: u16,
    length: usize,
    /// Bytes that are still to come.
    left: usize,
}

struct Session<S> {
    stream: S,
    shared: Shared,
    input: Vec<u8>,
    output: Vec<u8>,
    oversize: Option<Oversize>,
    version: Version,
    session: u64,
    hold: Option<Hold>,
    /// The session's expiry, told at the end.
    last_expiry: Option<u32>,
    /// Tickets in order, with the packet to acknowledge.
    waiting: VecDeque<(u64, u16)>,
    durable: watch::Receiver<u64>,
    keep_alive: Option<Duration>,
}

/// Serves the connection until it ends.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: Shared,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let durable = shared.intake.durable();
    let mut session = Session {
        stream,
        shared,
        input: Vec::new(),
        output: Vec::new(),
        oversize: None,
        version: Version::V4,
        session: 0,
        hold: None,
        last_expiry: None,
        waiting: VecDeque::new(),
        durable,
        keep_alive: None,
    };
    let ended = tokio::select! {
        ended = session.run() => ended,
        () = stopped(&mut stop) => Ok(()),
    };
    // What was taken is acknowledged if it becomes durable in time; else the hardware sends it again.
    let code = match &ended {
        Ok(()) => 0x8b,
        Err(Ended::QosTwo) => 0x9b,
        Err(Ended::KeepAlive) => 0x8d,
        Err(Ended::Packet(PacketError::TooLarge(_))) => 0x95,
        Err(Ended::Packet(_)) => 0x81,
        Err(Ended::Protocol) => 0x82,
        Err(Ended::TakenOver) => 0x8e,
        Err(Ended::Closed | Ended::Io(_) | Ended::Credentials | Ended::Client) => 0,
    };
    session.farewell(code).await;
    if let Some(hold) = session.hold {
        session.shared.sessions.end(&hold, session.last_expiry, Instant::now());
    }
    ended.err().unwrap_or(Ended::Closed)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn run(&mut self) -> Result<(), Ended> {
        let hold = self.greet().await?;
        self.hold = Some(hold.clone());
        tokio::select! {
            ended = self.converse() => ended,
            () = hold.lost() => Err(Ended::TakenOver),
        }
    }

    /// Takes messages and acknowledges them.
    async fn converse(&mut self) -> Result<(), Ended> {
        let mut heard = Instant::now();
        loop {
            self.handle_input().await?;
            self.acknowledge();
            self.flush().await?;
            let deadline = self.keep_alive.map(|keep_alive| heard + keep_alive);
            let reading = self.waiting.len() < usize::from(WINDOW);
            let far = Instant::now() + Duration::from_secs(86_400);
            tokio::select! {
                read = read_some(&mut self.stream, &mut self.input), if reading => {
                    if read? == 0 {
                        return Err(Ended::Closed);
                    }
                    heard = Instant::now();
                }
                changed = self.durable.changed(), if !self.waiting.is_empty() => {
                    if changed.is_err() {
                        return Err(Ended::Closed);
                    }
                }
                () = tokio::time::sleep_until(deadline.unwrap_or(far)), if reading => {
                    if deadline.is_some() {
                        return Err(Ended::KeepAlive);
                    }
                }
            }
        }
    }

    /// Waits for CONNECT and answers it.
    async fn greet(&mut self) -> Result<Hold, Ended> {
        let deadline = Instant::now() + GREETING;
        let connect = loop {
            match packet::parse(&self.input, None, self.shared.options.max_packet)? {
                Parsed::Packet { packet: Packet::Connect(connect), length } => {
                    self.input.drain(..length);
                    break connect;
                }
                Parsed::Packet { .. } | Parsed::Oversize { .. } => return Err(Ended::Protocol),
                Parsed::Incomplete => {}
            }
            let read = timeout_at(deadline, read_some(&mut self.stream, &mut self.input)).await;
            if read.map_err(|_| Ended::KeepAlive)?? == 0 {
                return Err(Ended::Closed);
            }
        };
        self.version = connect.version;
        let welcome = if !self.shared.options.admits(connect.user.as_deref(), connect.password.as_deref()) {
            Welcome::BadCredentials
        } else if connect.client.is_empty() && !connect.clean && connect.version == Version::V4 {
            Welcome::BadClient
        } else {
            Welcome::Accepted
        };
        let assigned = connect.client.is_empty().then(made_up_name);
        self.session = self.shared.intake.session(assigned.as_ref().unwrap_or(&connect.client));
        let mut answer = Answer { welcome, present: false, assigned: assigned.as_deref(), receive_maximum: WINDOW };
        let refused = match welcome {
            Welcome::BadCredentials => Some(Ended::Credentials),
            Welcome::BadClient => Some(Ended::Client),
            Welcome::Accepted | Welcome::TooMany => None,
        };
        if let Some(refused) = refused {
            packet::connack(&mut self.output, self.version, &answer);
            self.flush().await?;
            return Err(refused);
        }
        let sessions = &self.shared.sessions;
        let (present, hold) = sessions.begin(self.session, connect.clean, connect.expiry, Instant::now());
        answer.present = present;
        // Flushed by whoever gives the hold back should that fail.
        packet::connack(&mut self.output, self.version, &answer);
        self.keep_alive =
            (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1_500));
        Ok(hold)
    }

    /// Handles all whole packets; waits where there is no room for one.
    async fn handle_input(&mut self) -> Result<(), Ended> {
        let mut at = 0;
        while self.waiting.len() < usize::from(WINDOW) && self.pass_over(&mut at) {
            let rest = self.input.get(at..).unwrap_or_default();
            let (packet, length) = match packet::parse(rest, Some(self.version), self.shared.options.max_packet)? {
                Parsed::Incomplete => break,
                Parsed::Packet { packet, length } => (packet, length),
                Parsed::Oversize { qos: 2, .. } => return Err(Ended::QosTwo),
                Parsed::Oversize { topic, packet, length, .. } => {
                    let topic = String::from_utf8_lossy(rest.get(topic).unwrap_or_default()).into_owned();
                    self.oversize = Some(Oversize { topic, packet, length, left: length });
                    continue;
                }
            };
            match packet {
                Packet::Publish(publish) => {
                    while !self.take(&publish, at)? {
                        self.acknowledge();
                        self.flush().await?;
                        self.wait_for_room().await?;
                    }
                }
                Packet::Subscribe { packet, filters } => {
                    packet::suback(&mut self.output, self.version, packet, filters)
                }
                Packet::Unsubscribe { packet, filters } => {
                    packet::unsuback(&mut self.output, self.version, packet, filters)
                }
                Packet::Ping => packet::pingresp(&mut self.output),
                Packet::Disconnect(expiry) => {
                    self.last_expiry = expiry;
                    return Err(Ended::Closed);
                }
                Packet::Connect(_) => return Err(Ended::Protocol),
                Packet::Ignored => {}
            }
            at += length;
        }
        self.input.drain(..at);
        if self.input.is_empty() && self.input.capacity() > 4 * READ {
            self.input.shrink_to(READ);
        }
        Ok(())
    }

    /// Throws away what is here of a message that is too large. Once all of it is gone, it is counted and acknowledged like any other
    /// that is rejected; `false`: more of it is to come.
    fn pass_over(&mut self, at: &mut usize) -> bool {
        let Some(oversize) = &mut self.oversize else { return true };
        let here = oversize.left.min(self.input.len().saturating_sub(*at));
        *at += here;
        oversize.left -= here;
        if oversize.left > 0 {
            return false;
        }
        if let Some(Oversize { topic, packet, length, .. }) = self.oversize.take() {
            self.shared.intake.oversize(&topic, length);
            self.acknowledge_in_order(packet);
        }
        true
    }

    /// Nothing of it is kept: acknowledged behind what still waits, so that acknowledgements keep the order of the messages.
    fn acknowledge_in_order(&mut self, packet: u16) {
        if packet > 0 {
            let ticket = self.waiting.back().map_or(0, |(ticket, _)| *ticket);
            self.waiting.push_back((ticket, packet));
        }
    }

    /// Offers a message; `false`: there is no room for it now.
    fn take(&mut self, publish: &Publish, at: usize) -> Result<bool, Ended> {
        if publish.qos == 2 {
            return Err(Ended::QosTwo);
        }
        if publish.alias != 0 {
            return Err(Ended::Protocol);
        }
        let packet = self.input.get(at..).unwrap_or_default();
        let topic =
            packet.get(publish.topic.clone()).and_then(|topic| std::str::from_utf8(topic).ok()).unwrap_or_default();
        let payload = packet.get(publish.payload.clone()).unwrap_or_default();
        let key = (publish.qos == 1).then_some((self.session, publish.packet));
        // Retained means to a broker that it is to keep it: here it is news like any other.
        let envelope = Envelope { topic, payload, packet: key, duplicate: publish.duplicate, retained: false };
        match self.shared.intake.offer(&envelope) {
            Offer::Full => return Ok(false),
            Offer::Ticket(ticket) if publish.qos == 1 => self.waiting.push_back((ticket, publish.packet)),
            Offer::Nothing => self.acknowledge_in_order(publish.packet),
            Offer::Ticket(_) => {}
        }
        Ok(true)
    }

    /// Keeps acknowledging while there is no room.
    async fn wait_for_room(&mut self) -> Result<(), Ended> {
        loop {
            let intake = Arc::clone(&self.shared.intake);
            tokio::select! {
                () = intake.room() => return Ok(()),
                changed = self.durable.changed(), if !self.waiting.is_empty() => {
                    changed.map_err(|_| Ended::Closed)?;
                    self.acknowledge();
                    self.flush().await?;
                }
            }
        }
    }

    fn acknowledge(&mut self) {
        let durable = *self.durable.borrow_and_update();
        while let Some((ticket, packet)) = self.waiting.front().copied() {
            if ticket > durable {
                break;
            }
            self.waiting.pop_front();
            packet::puback(&mut self.output, packet);
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Acknowledges what becomes durable within a second, and says goodbye.
    async fn farewell(&mut self, code: u8) {
        let deadline = Instant::now() + Duration::from_secs(1);
        self.acknowledge();
        while !self.waiting.is_empty() {
            match timeout_at(deadline, self.durable.changed()).await {
                Ok(Ok(())) => self.acknowledge(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if code != 0 {
            packet::disconnect(&mut self.output, self.version, code);
        }
        // The peer may be gone: then nothing is owed to it.
        let _ = timeout_at(deadline, self.flush()).await;
    }
}

/// Reads what fits. A read that filled a small buffer was too short: the next one gets twice as much.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Vec<u8>) -> std::io::Result<usize> {
    if input.capacity() == input.len() {
        input.reserve(input.capacity().clamp(FIRST, READ));
    }
    let read = stream.read_buf(input).await?;
    if input.capacity() == input.len() && input.capacity() < READ {
        input.reserve(input.capacity());
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_quiet_connection_holds_little_and_a_busy_one_reads_much() {
        let mut input = Vec::new();
        let message = [7; 250];
        for _ in 0..100 {
            assert_eq!(read_some(&mut &message[..], &mut input).await.unwrap(), message.len());
            input.clear();
        }
        assert!(input.capacity() <= FIRST, "{}", input.capacity());
        let flood = vec![7; 1 << 20];
        let (mut stream, mut reads) = (&flood[..], 0);
        while !stream.is_empty() {
            assert!(read_some(&mut stream, &mut input).await.unwrap() > 0);
            reads += 1;
            // A part of the last message always remains.
            input.truncate(100);
        }
        assert!(input.capacity() >= READ && input.capacity() < 2 * READ, "{}", input.capacity());
        assert!(reads < 80, "{reads}");
        // A message that does not fit gets room in any case.
        let mut stream = &flood[..];
        while read_some(&mut stream, &mut input).await.unwrap() > 0 {}
        assert_eq!(input.len(), flood.len() + 100);
    }
}
