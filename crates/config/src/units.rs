//! Scalars with a notation of their own: durations, sizes, addresses, templates.
//!
//! Each has a `format` in the JSON Schema, by which the shape check knows it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plan::StartPlan;

/// Longest duration that is accepted.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Largest size that is accepted: 1 EiB.
pub const SIZE_MAX: u64 = 1 << 60;

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A duration such as `30s`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Time(pub Duration);
/// A number of bytes such as `64KiB`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Size(pub u64);
/// An IP address with a port.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Address(pub SocketAddr);
/// An address, or `off`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct MaybeAddress(pub Option<SocketAddr>);
/// `earliest`, `latest`, or a duration back.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) struct Start(pub StartPlan);
/// Text with `${...}` parts.
#[derive(Clone, PartialEq)]
pub(crate) struct TemplateText(pub String);
/// The text of any scalar, as it is written: a number stays as it is.
#[derive(Clone, PartialEq)]
pub(crate) struct Word(pub String);

/// The notation of a kind of scalar.
pub(crate) struct Notation {
    /// The name in the schema.
    pub format: &'static str,
    /// What a reader would call it, with an example.
    pub expected: &'static str,
    /// `None`: the text is not one.
    pub check: fn(&str) -> bool,
}

pub(crate) const NOTATIONS: [Notation; 7] = [
    Notation { format: "tidegate-duration", expected: "a duration such as 30s", check: |text| Time::read(text).is_some() },
    Notation { format: "tidegate-size", expected: "a size such as 64KiB", check: |text| Size::read(text).is_some() },
    Notation {
        format: "tidegate-address",
        expected: "an IP address with a port such as 0.0.0.0:8080",
        check: |text| Address::read(text).is_some(),
    },
    Notation {
        format: "tidegate-address-or-off",
        expected: "off, or an IP address with a port such as 127.0.0.1:8081",
        check: |text| MaybeAddress::read(text).is_some(),
    },
    Notation {
        format: "tidegate-start",
        expected: "earliest, latest, or a duration back such as 1h",
        check: |text| Start::read(text).is_some(),
    },
    Notation { format: "tidegate-template", expected: "a text", check: |_| true },
    Notation { format: "tidegate-word", expected: "a text, a number, true or false", check: |_| true },
];

impl Time {
    fn read(text: &str) -> Option<Time> {
        let millis = counted(text, &TIME_UNITS)?;
        let duration = Duration::from_millis(millis);
        (duration <= DURATION_MAX).then_some(Time(duration))
    }

    fn write(&self) -> String {
        written(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), &TIME_UNITS)
    }
}

impl Size {
    fn read(text: &str) -> Option<Size> {
        counted(text, &SIZE_UNITS).filter(|bytes| *bytes <= SIZE_MAX).map(Size)
    }

    pub fn write(&self) -> String {
        written(self.0, &SIZE_UNITS[..6])
    }
}

/// A whole number with a unit, spaces allowed between them.
fn counted(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `count` in the largest unit that divides it.
fn written(count: u64, units: &[(&str, u64)]) -> String {
    // Of equal factors (bytes with and without `B`) the later one is taken.
    let fitting = units.iter().filter(|(_, factor)| count.is_multiple_of(*factor) && count >= *factor);
    let (name, factor) = fitting.max_by_key(|(_, factor)| *factor).unwrap_or(&units[0]);
    format!("{}{name}", count / factor)
}

impl Address {
    fn read(text: &str) -> Option<Address> {
        text.parse().ok().map(Address)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

impl MaybeAddress {
    fn read(text: &str) -> Option<MaybeAddress> {
        match text {
            "off" => Some(MaybeAddress(None)),
            _ => Address::read(text).map(|address| MaybeAddress(Some(address.0))),
        }
    }

    fn write(&self) -> String {
        self.0.map_or_else(|| "off".into(), |address| address.to_string())
    }
}

impl Start {
    fn read(text: &str) -> Option<Start> {
        match text {
            "earliest" => Some(Start(StartPlan::Earliest)),
            "latest" => Some(Start(StartPlan::Latest)),
            _ => Time::read(text).map(|time| Start(StartPlan::Back(time.0))),
        }
    }

    fn write(&self) -> String {
        match self.0 {
            StartPlan::Earliest => "earliest".into(),
            StartPlan::Latest => "latest".into(),
            StartPlan::Back(duration) => Time(duration).write(),
        }
    }
}

impl TemplateText {
    fn read(text: &str) -> Option<TemplateText> {
        Some(TemplateText(text.into()))
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

impl Word {
    fn read(text: &str) -> Option<Word> {
        Some(Word(text.into()))
    }

    fn write(&self) -> String {
        self.0.clone()
    }
}

macro_rules! scalar {
    ($type:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $type::read(&text).ok_or_else(|| serde::de::Error::custom(concat!("not a ", stringify!($type))))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.write())
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

scalar!(Time, { "type": "string", "format": "tidegate-duration", "pattern": "^[0-9]+ *(ms|s|m|h)$", "examples": ["30s", "500ms"] });
scalar!(Size, {
    "type": ["string", "integer"], "format": "tidegate-size", "minimum": 0,
    "pattern": "^[0-9]+ *([KMGT]i?B|B)?$", "examples": ["64KiB", "128MiB"]
});
scalar!(Address, { "type": "string", "format": "tidegate-address", "examples": ["0.0.0.0:8080", "[::]:8080"] });
scalar!(MaybeAddress, { "type": "string", "format": "tidegate-address-or-off", "examples": ["127.0.0.1:8081", "off"] });
scalar!(Start, {
    "type": "string", "format": "tidegate-start", "pattern": "^(earliest|latest|[0-9]+ *(ms|s|m|h))$",
    "examples": ["earliest", "latest", "1h"]
});
scalar!(TemplateText, { "type": ["string", "number", "boolean"], "format": "tidegate-template" });
scalar!(Word, { "type": ["string", "number", "boolean"], "format": "tidegate-word" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read() {
        let time = |text: &str| Time::read(text).map(|time| time.0.as_millis());
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("5m", Some(300_000)),
            ("1 h", Some(3_600_000)),
            ("0s", Some(0)),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("9000h", None),
            ("30S", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        let size = |text: &str| Size::read(text).map(|size| size.0);
        for (text, expected) in [
            ("64KiB", Some(65_536)),
            ("128 MiB", Some(134_217_728)),
            ("1MB", Some(1_000_000)),
            ("4096", Some(4096)),
            ("10B", Some(10)),
            ("1kb", None),
            ("", None),
            ("18446744073709551615", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn they_are_written_as_they_are_read() {
        for text in ["30s", "500ms", "5m", "1h"] {
            assert_eq!(Time::read(text).map(|time| time.write()).as_deref(), Some(text));
        }
        for text in ["64KiB", "256MiB", "1001B", "0"] {
            assert_eq!(Size::read(text).map(|size| size.write()).as_deref(), Some(text));
        }
        for text in ["earliest", "latest", "90m"] {
            assert_eq!(Start::read(text).map(|start| start.write()).as_deref(), Some(text));
        }
    }
}
