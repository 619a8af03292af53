// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What tells one machine from another, and what only its own guest is told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The longest name of a credential: it becomes the name of a file.
const MAX_NAME: usize = 255;

/// A machine's UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId([u8; 16]);

impl MachineId {
    /// A UUID from its bytes, in the order in which it is written. Neither all zeros nor all ones: to a guest they mean that
    /// there is none.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16] && bytes != [0xff; 16]).then_some(Self(bytes))
    }

    /// Its bytes, in the order in which it is written.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl FromStr for MachineId {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = |problem| ConfigError::MachineId { text: text.to_owned(), problem };
        let is_form =
            text.len() == 32 || text.len() == 36 && [8, 13, 18, 23].map(|at| text.as_bytes()[at]) == [b'-'; 4];
        let digits = if text.len() == 36 { text.replace('-', "") } else { text.to_owned() };
        // A sign would pass for a digit.
        let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| is_form && is_hex);
        let number =
            number.ok_or(bad("give 32 hexadecimal digits, with or without dashes, as 'uuidgen' prints them"))?;
        Self::new(number.to_be_bytes())
            .ok_or(bad("to a guest, that means that there is none: 'uuidgen' prints another one"))
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", u128::from_be_bytes(self.0));
        write!(f, "{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
    }
}

impl TryFrom<String> for MachineId {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.to_string()
    }
}

/// Something that only the machine's own guest is to know: systemd finds it by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub content: CredentialContent,
}

/// What a credential is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialContent {
    /// All bytes of a file, or of a pipe, to its end.
    File(PathBuf),
    /// These bytes.
    Value(Vec<u8>),
}

impl fmt::Debug for CredentialContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(value) => write!(f, "Value({} bytes)", value.len()),
        }
    }
}

impl Credential {
    /// A credential that is in a file.
    pub fn file(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), content: CredentialContent::File(path.into()) }
    }

    /// A credential that its owner has at hand.
    pub fn value(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), content: CredentialContent::Value(value.into()) }
    }

    /// Whether it has a name that systemd takes (`credential_name_valid` in src/shared/creds-util.c): one that both a file and a
    /// descriptor of systemd's could have. Anything else it would leave out without a word.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self.name.as_str() {
            "" => Err("has no name"),
            "." | ".." => Err("has a name that no file can have"),
            name if name.len() > MAX_NAME => Err("has a name of more than 255 characters"),
            name if !name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && !b":/=".contains(&byte)) => {
                Err("has a name with something else in it than printable ASCII, or with ':', '/' or '='")
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Credential {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let bad = |problem: &str| ConfigError::Credential { text: text.to_owned(), problem: problem.to_owned() };
        let (name, path) = text.split_once('=').ok_or_else(|| bad("give NAME=FILE"))?;
        if path.is_empty() {
            return Err(bad("there is no file behind the '='"));
        }
        let credential = Self::file(name, path);
        credential.check().map_err(|problem| bad(&format!("it {problem}")))?;
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_with_and_without_dashes_in_either_case() {
        let written = "00112233-4455-6677-8899-aabbccddeeff";
        for text in [written, "00112233445566778899aabbccddeeff", "00112233-4455-6677-8899-AABBCCDDEEFF"] {
            let id: MachineId = text.parse().unwrap();
            assert_eq!(id.to_string(), written);
            assert_eq!(id.bytes()[..4], [0x00, 0x11, 0x22, 0x33]);
            assert_eq!(serde_json::from_str::<MachineId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        }
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        let bad = [
            "",
            "1",
            "0011223344556677-8899-aabbccddeeff--",
            "+0112233445566778899aabbccddeeff",
            "00112233445566778899aabbccddeefg",
            "{00112233-4455-6677-8899-aabbccddeeff}",
            "00112233-4455-6677-8899-aabbccddeef-",
            "00112233-4455-6677-8899-aabbccddee\u{e9}",
            "éééééééééééééééé",
        ];
        for text in bad {
            let error = text.parse::<MachineId>().unwrap_err().to_string();
            assert!(error.contains("give 32 hexadecimal digits"), "{text}: {error}");
        }
        for text in ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            let error = text.parse::<MachineId>().unwrap_err().to_string();
            assert!(error.contains("means that there is none"), "{error}");
        }
    }

    #[test]
    fn a_credential_is_a_name_and_a_file() {
        let credential: Credential = "ssh.authorized_keys.root=/a=b".parse().unwrap();
        assert_eq!(credential, Credential::file("ssh.authorized_keys.root", "/a=b"));
        let json = r#"{"name":"n","content":{"file":"/f"}}"#;
        assert_eq!(serde_json::from_str::<Credential>(json).unwrap(), Credential::file("n", "/f"));
        let value = Credential::value("n", [0, 255]);
        assert_eq!(serde_json::from_str::<Credential>(&serde_json::to_string(&value).unwrap()).unwrap(), value);
        assert!("a".repeat(255).parse::<Credential>().is_err());
        assert!(format!("{}=f", "a".repeat(255)).parse::<Credential>().is_ok());
    }

    #[test]
    fn names_that_systemd_would_leave_out_are_refused() {
        let long = format!("{}=f", "a".repeat(256));
        for text in ["=f", "a", "a=", "a/b=f", "a:b=f", ".=f", "..=f", "a\nb=f", "é=f", "a\x7f=f", long.as_str()] {
            assert!(matches!(text.parse::<Credential>(), Err(ConfigError::Credential { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_value_is_not_in_the_debug_form() {
        let shown = format!("{:?}", Credential::value("n", "hunter2"));
        assert_eq!(shown, r#"Credential { name: "n", content: Value(7 bytes) }"#);
    }
}
