// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest is told by SMBIOS: its machine's UUID, strings, and credentials, which are strings that systemd knows the form of
//! (systemd.system-credentials(7), <https://systemd.io/CREDENTIALS>).
//!
//! Credentials are read once, when the machine is built. They are in the guest's memory and in ours, and nowhere else: in no
//! command line and no log line.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use arch::GuestRam;
use arch::smbios::{self, Identity};

use crate::build::BuildError;
use crate::config::{Config, Credential, CredentialContent};

/// The most bytes of all credentials: Base64 makes them a third more.
const MAX_BYTES: u64 = smbios::ROOM as u64 / 4 * 3;

/// What there is to tell, while the machine is put together.
#[derive(Debug)]
pub(crate) struct Told {
    identity: Identity,
    names: BTreeSet<String>,
}

impl Told {
    /// What the configuration says; files are read here.
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        let uuid = config.machine_id.map(|id| id.bytes());
        let mut told =
            Self { identity: Identity { uuid, strings: config.oem_strings.clone() }, names: BTreeSet::default() };
        if let Err(smbios::Error::BadString(at)) = told.identity.check() {
            let problem = "is empty or has a NUL in it, which ends a string".to_owned();
            return Err(BuildError::Identity { what: format!("OEM string {}", at + 1), problem });
        }
        for credential in &config.credentials {
            told.add(credential)?;
        }
        Ok(told)
    }

    /// Adds a credential.
    pub(crate) fn add(&mut self, credential: &Credential) -> Result<(), BuildError> {
        let Credential { name, content } = credential;
        let cant = |problem: String| BuildError::Identity { what: format!("credential {name}"), problem };
        credential.check().map_err(|problem| cant(problem.to_owned()))?;
        if !self.names.insert(name.clone()) {
            return Err(cant("is there twice: give each a name of its own".to_owned()));
        }
        let text = match content {
            CredentialContent::File(path) => binary(name, &read(path).map_err(cant)?),
            CredentialContent::Value(value) => match std::str::from_utf8(value) {
                Ok(text) if !text.chars().any(char::is_control) => format!("io.systemd.credential:{name}={text}"),
                _ => binary(name, value),
            },
        };
        self.identity.strings.push(text);
        self.identity.check().map_err(|_| {
            let text = "is too much: all credentials and OEM strings together may have 64,512 bytes, those of credentials counted \
                        as Base64, and 48 for each; Linux crashes where there are more";
            cant(text.to_owned())
        })
    }

    /// Writes all of it to where the guest looks for it.
    pub(crate) fn write(&self, ram: &GuestRam) -> Result<(), BuildError> {
        smbios::write(ram, &self.identity)
            .map_err(|error| BuildError::Table { what: "SMBIOS tables", problem: error.to_string() })
    }
}

fn binary(name: &str, value: &[u8]) -> String {
    format!("io.systemd.credential.binary:{name}={}", base64(value))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cant = |what: &dyn std::fmt::Display| format!("{} {what}", path.display());
    let found = std::fs::metadata(path).map_err(|error| cant(&format_args!("can't be read: {error}")))?;
    if !found.file_type().is_file() && !found.file_type().is_fifo() {
        return Err(cant(&if found.is_dir() { "is a directory" } else { "is neither a file nor a pipe" }));
    }
    if found.file_type().is_file() && found.mode() & 0o004 != 0 {
        tracing::info!("the credential's file {} may be read by everybody on this host", path.display());
    }
    let file = File::open(path).map_err(|error| cant(&format_args!("can't be read: {error}")))?;
    let mut bytes = Vec::new();
    // One more, to see that there is more.
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| cant(&format_args!("can't be read: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(cant(&format_args!("is larger than {MAX_BYTES} bytes, and no guest can be told that much")));
    }
    Ok(bytes)
}

/// Base64 with padding (RFC 4648 §4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().chain([&0; 3]).take(3).fold(0, |bits, byte| bits << 8 | u32::from(*byte));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 0x3f) as usize;
            text.push(if digit <= group.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn told(credentials: Vec<Credential>) -> Result<Vec<String>, String> {
        let config = Config { credentials, ..Config::new("k") };
        Told::new(&config).map(|told| told.identity.strings).map_err(|error| error.to_string())
    }

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0, 0xff, 0xfe, 0xfb]), "AP/++w==");
    }

    #[test]
    fn a_file_becomes_base64_and_a_text_stays_one() {
        let secret = file(&[0, 0xff, 0xfe, 0xfb]);
        let empty = file(b"");
        let strings = told(vec![
            Credential::file("a", secret.path()),
            Credential::file("b", empty.path()),
            Credential::value("vmm.notify_socket", "vsock-stream:2:1"),
            Credential::value("c", "two\nlines"),
        ]);
        let expected = [
            "io.systemd.credential.binary:a=AP/++w==",
            "io.systemd.credential.binary:b=",
            "io.systemd.credential:vmm.notify_socket=vsock-stream:2:1",
            "io.systemd.credential.binary:c=dHdvCmxpbmVz",
        ];
        assert_eq!(strings.unwrap(), expected);
    }

    #[test]
    fn what_can_not_be_told_is_named_and_its_content_is_not() {
        let large = file(&vec![b'x'; MAX_BYTES as usize + 1]);
        let half = file(&vec![b'x'; MAX_BYTES as usize / 3 * 2]);
        let refused = |credentials| told(credentials).unwrap_err();
        let cases = [
            (
                vec![Credential::value("a", "hunter2"), Credential::value("a", "hunter2")],
                "credential a: is there twice",
            ),
            (vec![Credential::value("a/b", "hunter2")], "credential a/b: has a name with something else in it"),
            (vec![Credential::file("a", "/nowhere")], "credential a: /nowhere can't be read: No such file"),
            (vec![Credential::file("a", "/")], "credential a: / is a directory"),
            (vec![Credential::file("a", "/dev/null")], "credential a: /dev/null is neither a file nor a pipe"),
            (vec![Credential::file("a", "/proc/self/mem")], "credential a: /proc/self/mem can't be read: Input/output"),
            (vec![Credential::file("a", half.path()), Credential::file("b", half.path())], "credential b: is too much"),
        ];
        for (credentials, expected) in cases {
            let error = refused(credentials);
            assert!(error.starts_with(expected) && !error.contains("hunter2"), "{error}");
        }
        assert!(refused(vec![Credential::file("a", large.path())]).contains("is larger than 48384 bytes"));
        let strings = Config { oem_strings: vec!["a".into(), String::new()], ..Config::new("k") };
        let error = Told::new(&strings).unwrap_err().to_string();
        assert_eq!(error, "OEM string 2: is empty or has a NUL in it, which ends a string");
    }
}
