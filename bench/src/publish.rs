//! The load: devices that publish 200-byte JSON messages over MQTT 3.1.1 with QoS 1, paced or as fast as acknowledgements allow.
//!
//! Hand-written packets, because a client library would take more of the shared cores than the programs under test. Every message of a
//! device has a later timestamp than the one before, so that each is a reading of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::Notify,
    time::{self, Instant},
};

use crate::{
    network::device_name,
    processes::{cpu_seconds, now_ms},
};

/// Messages that are written at once, at most.
const BURST: u64 = 256;
/// Nothing acknowledged for so long: something is broken.
const STALLED: Duration = Duration::from_secs(30);

/// What is published.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Broker or listener, HOST:PORT
    #[arg(long)]
    mqtt: String,
    /// Messages in all
    #[arg(long)]
    messages: u64,
    /// Messages a second in all; 0: as fast as they are acknowledged
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Devices, shared among the connections
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Messages of one connection that may wait for acknowledgement
    #[arg(long, default_value_t = 1_000)]
    window: u64,
    /// Bytes of a payload
    #[arg(long, default_value_t = 200)]
    bytes: usize,
}

/// Publishes everything; returns once every message was acknowledged.
pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(options.connections > 0 && options.devices >= options.connections, "fewer devices than connections");
    let options = Arc::new(options);
    let mut connections = Vec::new();
    for number in 0..options.connections {
        connections.push(Connection::open(&options, number).await?);
    }
    let (begun, before) = (Instant::now(), cpu_seconds("self")?);
    let tasks: Vec<_> = connections.into_iter().map(|one| tokio::spawn(one.run(Arc::clone(&options), begun))).collect();
    for task in tasks {
        task.await??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "case": "publish", "messages": options.messages, "seconds": seconds,
            "perSecond": options.messages as f64 / seconds, "cpuSeconds": cpu_seconds("self")? - before,
        })
    );
    Ok(())
}

/// A device and the time of its last message.
struct Device {
    topic: String,
    name: String,
    last: i64,
}

struct Connection {
    stream: TcpStream,
    devices: Vec<Device>,
    messages: u64,
}

impl Connection {
    async fn open(options: &Options, number: u32) -> Result<Self> {
        let stream = TcpStream::connect(&options.mqtt).await.with_context(|| format!("connect {}", options.mqtt))?;
        stream.set_nodelay(true)?;
        let name = |number| Device {
            topic: format!("site/{}/telemetry", device_name(number)),
            name: device_name(number),
            last: 0,
        };
        let devices = (number..options.devices).step_by(options.connections as usize).map(name).collect();
        let (share, rest) =
            (options.messages / u64::from(options.connections), options.messages % u64::from(options.connections));
        let mut own = Self { stream, devices, messages: share + u64::from(u64::from(number) < rest) };
        own.connect(&format!("bench-{}-{number}", std::process::id())).await?;
        Ok(own)
    }

    async fn connect(&mut self, client: &str) -> Result<()> {
        let mut packet = vec![0x10, u8::try_from(12 + client.len())?, 0, 4];
        packet.extend_from_slice(b"MQTT");
        packet.extend_from_slice(&[4, 2, 0, 0]);
        packet.extend_from_slice(&u16::try_from(client.len())?.to_be_bytes());
        packet.extend_from_slice(client.as_bytes());
        self.stream.write_all(&packet).await?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer).await?;
        ensure!(answer[0] == 0x20 && answer[3] == 0, "the connection was refused: {answer:?}");
        Ok(())
    }

    async fn run(self, options: Arc<Options>, begun: Instant) -> Result<()> {
        let Self { stream, mut devices, messages } = self;
        let (read, mut write) = stream.into_split();
        let progress = Arc::new(Progress::default());
        let reading = tokio::spawn(acknowledgements(read, messages, Arc::clone(&progress)));
        let rate = options.rate as f64 / f64::from(options.connections);
        let (mut sent, mut out) = (0, Vec::with_capacity(64 * 1024));
        while sent < messages {
            let open = options.window.saturating_sub(sent - progress.acknowledged.load(Ordering::Acquire));
            let mut room = open.min(messages - sent).min(BURST);
            if options.rate > 0 {
                room = room.min(((begun.elapsed().as_secs_f64() * rate) as u64).saturating_sub(sent));
            }
            if room == 0 {
                if open == 0 {
                    time::timeout(STALLED, progress.changed.notified()).await.context("no acknowledgement for 30 s")?;
                } else {
                    // The next one's time, in steps of the timer.
                    let due = Duration::from_secs_f64((sent + 1) as f64 / rate.max(1.0));
                    time::sleep(due.saturating_sub(begun.elapsed()).max(Duration::from_millis(1))).await;
                }
                continue;
            }
            out.clear();
            let now = now_ms()?;
            for _ in 0..room {
                let count = devices.len() as u64;
                let device = &mut devices[(sent % count) as usize];
                device.last = now.max(device.last + 1);
                encode(&mut out, device, (sent % 65_535 + 1) as u16, sent, options.bytes)?;
                sent += 1;
            }
            write.write_all(&out).await?;
        }
        reading.await?
    }
}

#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    changed: Notify,
}

/// Reads until all are acknowledged. Nothing else comes than PUBACKs of four bytes.
async fn acknowledgements(mut read: OwnedReadHalf, messages: u64, progress: Arc<Progress>) -> Result<()> {
    let (mut buffer, mut bytes) = (vec![0; 4096], 0);
    while bytes / 4 < messages {
        let count = time::timeout(STALLED, read.read(&mut buffer)).await.context("no acknowledgement for 30 s")??;
        ensure!(count > 0, "the connection ended after {} acknowledgements of {messages}", bytes / 4);
        bytes += count as u64;
        progress.acknowledged.store(bytes / 4, Ordering::Release);
        progress.changed.notify_one();
    }
    Ok(())
}

fn encode(out: &mut Vec<u8>, device: &Device, packet: u16, number: u64, bytes: usize) -> Result<()> {
    let (tenths, energy) = (1_000 + number % 997, 1_000_000 + number);
    let head = format!(
        "{{\"ts\":{},\"device\":\"{}\",\"power_w\":{}.{},\"energy_wh\":{energy},\"seq\":{number},\"pad\":\"",
        device.last,
        device.name,
        tenths / 10,
        tenths % 10
    );
    let size = bytes.max(head.len() + 2);
    let mut remaining = 4 + device.topic.len() + size;
    out.push(0x32);
    loop {
        let low = (remaining & 0x7f) as u8;
        remaining >>= 7;
        out.push(if remaining > 0 { low | 0x80 } else { low });
        if remaining == 0 {
            break;
        }
    }
    out.extend_from_slice(&u16::try_from(device.topic.len())?.to_be_bytes());
    out.extend_from_slice(device.topic.as_bytes());
    out.extend_from_slice(&packet.to_be_bytes());
    out.extend_from_slice(head.as_bytes());
    out.resize(out.len() + size - head.len() - 2, b'x');
    out.extend_from_slice(b"\"}");
    Ok(())
}
