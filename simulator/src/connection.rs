//! One MQTT connection that publishes a plan and knows what was acknowledged.
//!
//! A message is kept until its PUBACK and sent again after a reconnect, under the same packet id and marked as duplicate, as
//! real hardware does.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    mqtt::{self, Incoming},
    plan::Message,
    record::Record,
};

const KEEP_ALIVE: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_millis(250);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `HOST:PORT` of the broker or the agent's listener.
    pub address: String,
    /// Distinguishes this client from all others.
    pub client_id: String,
    /// Publishes that may wait for their acknowledgement.
    pub window: usize,
    /// Publish at once instead of when due.
    pub unpaced: bool,
    /// How long to wait for outstanding acknowledgements at the end.
    pub drain: Duration,
}

/// Publishes a plan over one connection at a time.
#[derive(Debug)]
pub struct Connection<P> {
    settings: Settings,
    plan: P,
    next: Option<Message>,
    waiting: BTreeMap<u16, Message>,
    order: VecDeque<u16>,
    last_id: u16,
    record: Arc<Mutex<Record>>,
    clock: Clock,
}

/// Unix milliseconds by the machine's monotonic clock, so that a step of the wall clock does not stop the run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// An instant and its Unix milliseconds.
    pub anchor: (Instant, i64),
}

impl Clock {
    fn instant(&self, at: i64) -> Instant {
        let (instant, unix) = self.anchor;
        instant + Duration::from_millis(u64::try_from(at - unix).unwrap_or(0))
    }
}

enum Ended {
    Finished,
    Cut,
}

impl<P: Iterator<Item = Message> + Send> Connection<P> {
    /// A connection that has not been made yet.
    pub fn new(settings: Settings, mut plan: P, record: Arc<Mutex<Record>>, clock: Clock) -> Self {
        let next = plan.next();
        let (waiting, order) = (BTreeMap::new(), VecDeque::new());
        Self { settings, plan, next, waiting, order, last_id: 0, record, clock }
    }

    /// Publishes until the plan ends or `stop` turns true, then waits for what is outstanding. Whatever goes wrong with the
    /// network is tried again.
    ///
    /// # Errors
    /// When acknowledgements are still missing after the drain limit.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut first = true;
        let mut give_up = None;
        loop {
            if *stop.borrow() || self.next.is_none() {
                let limit = *give_up.get_or_insert_with(|| Instant::now() + self.settings.drain);
                if self.waiting.is_empty() {
                    return Ok(());
                }
                if Instant::now() >= limit {
                    bail!("{}: {} publishes were not acknowledged", self.settings.client_id, self.waiting.len());
                }
            }
            if !first {
                self.count(Record::reconnected);
            }
            match self.session(&mut stop, give_up).await {
                Ok(Ended::Finished) if self.waiting.is_empty() => return Ok(()),
                Ok(Ended::Finished | Ended::Cut) => {}
                Err(error) => {
                    tracing::debug!(client = self.settings.client_id, %error, "connection lost");
                    sleep(RECONNECT).await;
                }
            }
            first = false;
        }
    }

    async fn session(&mut self, stop: &mut watch::Receiver<bool>, give_up: Option<Instant>) -> io::Result<Ended> {
        let mut buffer = Vec::with_capacity(4096);
        let mut stream =
            timeout(HANDSHAKE_LIMIT, connect(&self.settings, &mut buffer)).await.map_err(io::Error::other)??;
        let mut again = Vec::new();
        for id in &self.order {
            if let Some(message) = self.waiting.get(id) {
                again.extend(mqtt::publish(&message.topic, &message.payload, *id, true));
            }
        }
        stream.write_all(&again).await?;
        let mut ping = Instant::now() + KEEP_ALIVE / 2;
        let mut draining = give_up;
        loop {
            let stopping = *stop.borrow() || self.next.is_none();
            if stopping && self.waiting.is_empty() {
                stream.write_all(&mqtt::DISCONNECT).await?;
                return Ok(Ended::Finished);
            }
            if stopping {
                draining.get_or_insert_with(|| Instant::now() + self.settings.drain);
            }
            let room = !stopping && self.waiting.len() < self.settings.window;
            let due = self.next.as_ref().filter(|_| room).map(|message| self.due(message));
            tokio::select! {
                biased;
                read = stream.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::ConnectionReset.into());
                    }
                    self.acknowledge(&mut buffer)?;
                }
                () = at(due) => {
                    if self.publish(&mut stream).await? {
                        return Ok(Ended::Cut);
                    }
                }
                () = sleep_until(ping) => {
                    stream.write_all(&mqtt::PING).await?;
                    ping = Instant::now() + KEEP_ALIVE / 2;
                }
                () = at(draining) => return Ok(Ended::Finished),
                changed = stop.changed(), if !stopping => if changed.is_err() {
                    return Ok(Ended::Finished);
                },
            }
        }
    }

    fn due(&self, message: &Message) -> Instant {
        if self.settings.unpaced { Instant::now() } else { self.clock.instant(message.due) }
    }

    /// Sends what is due, as much as the window takes, in one write. True if the connection is to be cut.
    async fn publish(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let mut packets = Vec::new();
        let mut cut = false;
        let now = Instant::now();
        while self.waiting.len() < self.settings.window && !cut {
            let Some(message) =
                self.next.take_if(|message| self.settings.unpaced || self.clock.instant(message.due) <= now)
            else {
                break;
            };
            self.next = self.plan.next();
            let id = self.free_id();
            packets.extend(mqtt::publish(&message.topic, &message.payload, id, false));
            self.count(|record| record.published(&message));
            cut = message.struck.disconnect && !message.copy;
            self.waiting.insert(id, message);
            self.order.push_back(id);
        }
        stream.write_all(&packets).await?;
        Ok(cut)
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.waiting.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    fn acknowledge(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut acknowledged = Vec::new();
        let taken = loop {
            match mqtt::take(buffer) {
                Ok(Some(Incoming::PubAck(id))) => {
                    if let Some(message) = self.waiting.remove(&id) {
                        self.order.retain(|waiting| *waiting != id);
                        acknowledged.push(message);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(unexpected) => break Err(io::Error::other(unexpected)),
            }
        };
        self.count(|record| record.acknowledged(&acknowledged));
        taken
    }

    fn count(&self, update: impl FnOnce(&mut Record)) {
        update(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn connect(settings: &Settings, buffer: &mut Vec<u8>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(&settings.address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&mqtt::connect(&settings.client_id, KEEP_ALIVE.as_secs() as u16)).await?;
    loop {
        match mqtt::take(buffer).map_err(io::Error::other)? {
            Some(Incoming::ConnAck(0)) => return Ok(stream),
            Some(other) => return Err(io::Error::other(format!("connection refused: {other:?}"))),
            None if stream.read_buf(buffer).await? == 0 => return Err(io::ErrorKind::ConnectionReset.into()),
            None => {}
        }
    }
}

/// Ready at `instant`; never without one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
