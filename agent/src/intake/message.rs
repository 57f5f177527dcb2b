//! A message as a source offers it, and what became of it.

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Acknowledge it once this ticket is durable.
    Ticket(u64),
    /// Acknowledge it now: nothing of it is to be kept.
    Nothing,
    /// No room: offer it again after [`Intake::room`].
    Full,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// MQTT topic.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// Session and packet identifier of a QoS 1 message.
    pub packet: Option<(u64, u16)>,
    /// The sender says that it may have been delivered before.
    pub duplicate: bool,
    /// A broker kept it for whoever subscribes: nobody knows since when.
    pub retained: bool,
}
