// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The address of a network card.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An Ethernet address that a card can have: neither a group's nor all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// An address that no card can have.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadMacAddress {
    /// Not six pairs of hexadecimal digits.
    #[error("{0:?} is no MAC address: it is six pairs of hexadecimal digits, as in 52:54:00:12:34:56")]
    Malformed(String),
    /// The lowest bit of the first byte is set.
    #[error("{} is a multicast address: the first byte of a card's address is even", Colons(*.0))]
    Multicast([u8; 6]),
    /// Nobody's address.
    #[error("00:00:00:00:00:00 is nobody's address: take one like 52:54:00:12:34:56")]
    Zero,
}

impl MacAddress {
    /// The address of these bytes.
    ///
    /// # Errors
    ///
    /// When no card can have it.
    pub fn new(bytes: [u8; 6]) -> Result<Self, BadMacAddress> {
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err(BadMacAddress::Zero),
            [first, ..] if first & 1 != 0 => Err(BadMacAddress::Multicast(bytes)),
            bytes => Ok(Self(bytes)),
        }
    }

    /// The bytes, in the order in which they are sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// As a number, for an atomic to hold.
    pub(super) fn to_bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// What [`Self::to_bits`] gave.
    pub(super) fn from_bits(bits: u64) -> Self {
        let [a, b, c, d, e, f, ..] = bits.to_le_bytes();
        Self([a, b, c, d, e, f])
    }
}

impl FromStr for MacAddress {
    type Err = BadMacAddress;

    fn from_str(text: &str) -> Result<Self, BadMacAddress> {
        let malformed = || BadMacAddress::Malformed(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            // `from_str_radix` takes a sign too.
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(malformed)?;
        }
        if parts.next().is_some() { Err(malformed()) } else { Self::new(bytes) }
    }
}

/// Six bytes as they are written.
struct Colons([u8; 6]);

impl fmt::Display for Colons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Colons(self.0))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Colons(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["52:54:00:12:34:56", "02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff"] {
            let mac: MacAddress = text.parse().unwrap();
            assert_eq!(mac.to_string(), text);
            assert_eq!(MacAddress::from_bits(mac.to_bits()), mac);
        }
        assert_eq!("52:54:00:AB:cd:EF".parse::<MacAddress>().unwrap().bytes(), [0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
    }

    #[test]
    fn what_no_card_can_have_is_named() {
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52-54-00-12-34-56",
            "5:54:00:12:34:567",
            "+2:54:00:12:34:56",
            "52:54:00:12:34:5g",
            "52:54:00:12:34:ä",
            "525400123456",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(BadMacAddress::Malformed(text.to_owned())));
        }
        let message = |text: &str| text.parse::<MacAddress>().unwrap_err().to_string();
        assert_eq!(
            message("01:00:5e:00:00:01"),
            "01:00:5e:00:00:01 is a multicast address: the first byte of a card's address is even"
        );
        assert!(message("ff:ff:ff:ff:ff:ff").contains("multicast"));
        assert!(message("00:00:00:00:00:00").contains("nobody's"));
    }
}
