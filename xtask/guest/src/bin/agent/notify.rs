// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tells a service manager on the host, as systemd does from version 254 on (sd_notify(3), systemd.system-credentials(7)): by a
//! stream whose address is a credential, which is one of the strings in the machine's SMBIOS tables.

use std::fs;
use std::io::Write;
use std::net::Shutdown;

use crate::address::Address;
use crate::server::end_of;

const CREDENTIAL: &[u8] = b"io.systemd.credential:vmm.notify_socket=";

pub(crate) fn notify(text: &str) -> Result<(), String> {
    let address = address()?;
    let to: Address = match address.strip_prefix("vsock-stream:").or_else(|| address.strip_prefix("vsock:")) {
        Some(rest) => format!("vsock:{rest}").parse()?,
        None => return Err(format!("vmm.notify_socket is {address:?}, which is no stream")),
    };
    let send = || {
        let mut stream = to.connect()?;
        stream.write_all(text.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        end_of(&mut stream)
    };
    send().map_err(|error| format!("{address}: {error}"))
}

/// Looks for the credential in all structures of type 11, "OEM strings".
fn address() -> Result<String, String> {
    for number in 0..64 {
        let path = format!("/sys/firmware/dmi/entries/11-{number}/raw");
        let Ok(raw) = fs::read(&path) else { break };
        if let Some(address) = find(&raw) {
            return Ok(address);
        }
    }
    Err("the machine has no credential vmm.notify_socket".to_owned())
}

fn find(raw: &[u8]) -> Option<String> {
    // The second byte is the length of what is in front of the strings.
    let strings = raw.get(usize::from(*raw.get(1)?)..)?;
    let value = strings.split(|byte| *byte == 0).find_map(|string| string.strip_prefix(CREDENTIAL))?;
    String::from_utf8(value.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_one_of_the_strings() {
        let raw = b"\x0b\x05\x00\x00\x02other\0io.systemd.credential:vmm.notify_socket=vsock-stream:2:8888\0\0";
        assert_eq!(find(raw).as_deref(), Some("vsock-stream:2:8888"));
        assert_eq!(find(b"\x0b\x05\x00\x00\x01other\0\0"), None);
        assert_eq!(find(b"\x0b"), None);
    }
}
