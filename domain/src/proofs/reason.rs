//! Every reason for which something does not count: one closed list for agent, gateway and ledger.
//!
//! Codes are part of the wire format and of recorded verdicts: they are never reused or renumbered.

/// Where in the data's way a reason arises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// In the agent: the message is acknowledged, counted and sampled in the log; nothing of it is spooled.
    Codec,
    /// In the gateway: the proof is refused; no state was touched.
    Refused,
    /// In the gateway: not now; the same proof may be sent again.
    Deferred,
    /// In the gateway: judged and recorded; the section or reading does not count.
    Judged,
}

macro_rules! reasons {
    ($($code:literal $name:ident $stage:ident $meaning:literal $remedy:literal;)*) => {
        /// Why something does not count.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Reason {
            $(#[doc = $meaning] $name = $code,)*
        }

        impl Reason {
            /// All reasons, ascending by code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code in wire formats and records.
            #[must_use]
            pub fn code(self) -> u16 {
                self as u16
            }

            /// The reason with this code.
            #[must_use]
            pub fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// CamelCase name, as in metrics, tables and events.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Where it arises.
            #[must_use]
            pub fn stage(self) -> Stage {
                match self {
                    $(Self::$name => Stage::$stage,)*
                }
            }

            /// What it means, one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }

            /// What to do about it, one sentence.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)*
                }
            }
        }
    };
}

reasons! {
    1 UnknownTopic Codec "No model that the agent knows has a source whose topic filter matches." "Add a source with this topic to the model, or stop publishing there.";
    2 MalformedPayload Codec "The payload is not what the source's codec expects." "Compare a captured payload with the model: kubectl depin decode.";
    3 OversizePayload Codec "The payload is larger than the agent takes." "Send smaller messages, or raise the agent's payload limit.";
    4 TooDeep Codec "The payload nests deeper than the agent follows." "Flatten the payload.";
    5 NoDeviceName Codec "The message does not name its device where the model says." "Correct the source's device rule.";
    6 InvalidSerial Codec "The device's name is empty, too long, or has characters that a serial cannot have." "Correct the source's device rule or the device's serial.";
    7 MissingField Codec "A field of the source is not in the payload." "Nothing, if the device sends it only sometimes; else correct the path.";
    8 NotANumber Codec "A field holds no finite number." "Correct the path, or mend the device.";
    9 NotRepresentable Codec "The number does not fit 64 bits at the metric's scale." "Lower the metric's scale or correct the unit.";
    10 UnknownUnit Codec "The payload names a unit that cannot be converted to the metric's." "Correct the unit in the model or the device.";
    11 BadTimestamp Codec "The timestamp cannot be read in the format that the model names." "Correct the timestamp rule.";
    12 QuotaExceeded Codec "An unapproved device has more readings waiting than may be kept for it." "Approve or deny the device.";
    13 RetainedWithoutTime Codec "The broker had kept the message (retained), and its payload does not tell when it was measured." "None needed: the device's next message counts; else let the payload tell the time, or publish without retain.";

    100 Malformed Refused "Header or section bytes do not follow the envelope." "Update the agent; report it if that does not help.";
    101 Oversize Refused "The proof is larger than the gateway takes." "None needed: the agent seals smaller proofs.";
    102 BadSignature Refused "The signature does not verify." "Check the device's key; a restored or cloned disk enrolls anew.";
    103 UnknownKey Refused "No agent or device has this key." "Enroll the agent, or correct the device's publicKey.";
    104 KeyRevoked Refused "The key was revoked." "Enroll the agent anew with a new key.";
    105 NotYourKey Refused "The stream's certificate may not speak for this key." "The device's assignment names another agent.";
    106 BodyMismatch Refused "The sections do not hash to the header's body." "Report it: bytes were changed on their way.";
    107 Equivocation Refused "The chain has another proof at this sequence: kept as evidence." "Find the second copy of the key: a cloned disk.";
    108 IncarnationFenced Refused "A higher incarnation of this chain was opened." "None needed: the agent reseals under the new incarnation.";
    109 SequencePassed Refused "The chain is past this sequence, and what stood there is no longer known." "None needed: the agent reseals under a new incarnation.";

    200 RegistryNewer Deferred "The proof names a registry version that this gateway has not seen." "None needed: it is sent again.";
    201 Overloaded Deferred "The gateway has as much as it can hold." "None needed; if it lasts, add a gateway.";
    202 SequenceGap Deferred "The sequence is beyond the chain's next without a declared gap." "None needed: the agent opens the chain anew.";
    203 KeyNotYetRegistered Deferred "The certificate is good but the registry lacks its key, as after a restore." "Re-apply the EdgeAgent, or wait for the operator.";
    204 LedgerUnavailable Deferred "The ledger takes no writes now." "See the gateway's conditions: disk full, read-only or failing.";

    300 NotApproved Judged "The device was not approved at the reading's time." "Create the EdgeDevice: kubectl depin approve.";
    301 Suspended Judged "The device was suspended at the reading's time." "kubectl depin resume, once the cause is mended.";
    302 NotYours Judged "The device was assigned to another agent or key at the reading's time." "Correct EdgeDevice.spec.agent or publicKey.";
    303 UnknownModel Judged "No model has this digest." "Re-apply the model that the agent used.";
    304 ModelNotInForce Judged "The model was not in force at the reading's time, nor the last that the agent had confirmed." "None needed; the agent follows the registry.";
    305 AttestationTooLow Judged "The model asks for a stronger attestation." "Set the model's minimumAttestation to Agent: depin-agent does not relay yet what devices sign themselves.";
    306 UnknownMetric Judged "The model has no such metric." "Correct the model or the agent's version.";
    307 OutOfRange Judged "The value is beyond the metric's min or max." "Mend the device, or widen the model's range.";
    308 RateExceeded Judged "The value changed faster than the metric's maxRate." "Mend the device, or raise maxRate.";
    309 CheckFailed Judged "A check of the model is not satisfied; the detail names it." "See the check's expression in the model.";
    310 InFuture Judged "The timestamp lies beyond the time of sealing or of receipt." "Set the device's clock.";
    311 OutOfOrder Judged "A counter's reading is older than one that already counted." "Raise reorderHorizon if the device sends late.";
    312 Duplicate Judged "This device, metric and timestamp counted before." "None needed.";
    313 SlotTaken Judged "A late reading's cadence slot already holds a reading." "None needed.";
    314 LateBeyondUntil Judged "The reading's epoch was settled for good before it came; or no program pays for its fleet, whose newest reading is two weeks newer." "None possible; lengthen the program's lateUntil.";
    315 CheckError Judged "A check could not be evaluated; the detail names it." "Correct the check's expression.";
    316 WrongModel Judged "The device is of another model than the section names." "Correct the fleet's modelRef.";
}

impl Stage {
    /// What becomes of that for which the reason is given, one sentence.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Codec => {
                "In the agent: the message is acknowledged, counted and sampled in the log; nothing of it is spooled."
            }
            Self::Refused => "In the gateway: the proof is refused, counted, and no state was touched.",
            Self::Deferred => "In the gateway: not now; the same proof may be sent again.",
            Self::Judged => "In the gateway: judged and recorded; the section or reading does not count.",
        }
    }
}

/// All reasons as a page of documentation: `docs/reasons.md`.
#[must_use]
pub fn reasons_markdown() -> String {
    let mut page = String::from(
        "# Reasons\n\nWhy a message, a proof or a reading does not count: one closed list for agent, gateway and ledger. Codes are part of \
         the wire format and\nare never reused. Generated from `domain/src/proofs/reason.rs` by `cargo xtask generate`.\n",
    );
    for stage in [Stage::Codec, Stage::Refused, Stage::Deferred, Stage::Judged] {
        page.push_str(&format!("\n## {stage:?}\n\n{}\n\n", stage.meaning()));
        page.push_str("| Code | Reason | Meaning | Remedy |\n|---|---|---|---|\n");
        for reason in Reason::ALL.iter().filter(|reason| reason.stage() == stage) {
            let (code, name, meaning, remedy) = (reason.code(), reason.name(), reason.meaning(), reason.remedy());
            page.push_str(&format!("| {code} | `{name}` | {meaning} | {remedy} |\n"));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_reasons_is_what_the_list_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
        let committed = std::fs::read_to_string(path).unwrap();
        assert_eq!(committed, reasons_markdown(), "docs/reasons.md is out of date: run `cargo xtask generate`");
    }

    #[test]
    fn codes_lead_back_to_their_reasons_and_names_are_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|reason| Reason::from_code(reason.code()) == Some(*reason)));
        assert_eq!(Reason::from_code(0), None);
        assert!(Reason::ALL.iter().all(|reason| !reason.meaning().contains('|') && !reason.remedy().contains('|')));
    }
}
