// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `agent`: what a guest's programs do with the devices that are no disk and no network, and what programs of the host do at
//! the other end. It runs in the guest and beside it.
//!
//! | command | does |
//! |---|---|
//! | `agent serve ADDRESS` | does what whoever connects asks for, until it is killed; says `agent: ready` first |
//! | `agent send ADDRESS BYTES` | sends so many bytes, ends its half of the stream, and waits until the server has compared all |
//! | `agent receive ADDRESS BYTES` | has so many bytes sent to it, and compares all |
//! | `agent echo ADDRESS COUNT` | sends a byte and waits until it is back, so many times |
//! | `agent many ADDRESS COUNT` | opens so many connections, uses each while all are open, and closes them |
//! | `agent half-close ADDRESS COUNT` | connects, ends its half of the stream, and waits for the other's end, so many times |
//! | `agent say ADDRESS TEXT` | sends a text, ends its half of the stream, and waits for the other's end |
//! | `agent notify TEXT` | tells a service manager on the host, by the socket that the credential `vmm.notify_socket` names |
//! | `agent memory BYTES` | touches so much memory and says `agent: touched`; frees it when there is a line to read |
//! | `agent fsync FILE COUNT` | writes 4 KiB and makes that durable, so many times |
//!
//! | address | is |
//! |---|---|
//! | `vsock:CID:PORT` | a port of a virtual machine, or of the host, which is 2 |
//! | `vsock:PORT` | to serve a port of this machine's |
//! | `unix:PATH` | a Unix socket |
//! | `hybrid:PATH:PORT` | a port of the guest's whose VMM listens at PATH, and is told `CONNECT PORT` |
//!
//! What has come to its end says `agent: end COMMAND count=N ns=N`, and what goes there and back says `mean_ns=N median_ns=N
//! p99_ns=N` behind that. Whatever goes wrong is said as `agent: error: …`, and ends it with status 1.

mod address;
mod client;
mod memory;
mod notify;
#[path = "../netload/pattern.rs"]
mod pattern;
mod server;

use std::process::ExitCode;
use std::time::Instant;

use address::Address;

const USAGE: &str = "usage: agent serve ADDRESS | send ADDRESS BYTES | receive ADDRESS BYTES | echo ADDRESS COUNT \
                     | many ADDRESS COUNT | half-close ADDRESS COUNT | say ADDRESS TEXT | notify TEXT | memory BYTES \
                     | fsync FILE COUNT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever is in it: that is what is looked for on a console.
            eprintln!("agent: error: {}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
    let begun = Instant::now();
    let [command, rest @ ..] = arguments else { return Err(USAGE.to_owned()) };
    let (count, more) = match (*command, rest) {
        ("serve", [address]) => return server::serve(&address.parse()?).map_err(|error| format!("{address}: {error}")),
        ("memory", [bytes]) => return memory::touch(number(bytes)?).map_err(|error| error.to_string()),
        ("fsync", [path, count]) => {
            let count = number(count)?;
            memory::fsync(path, count).map_err(|error| format!("{path}: {error}"))?;
            (count, String::new())
        }
        ("notify", [text]) => {
            notify::notify(text)?;
            (1, String::new())
        }
        ("say", [address, text]) => {
            let to: Address = address.parse()?;
            client::say(&to, text).map_err(|error| format!("{address}: {error}"))?;
            (1, String::new())
        }
        (_, [address, count]) => {
            let (to, count): (Address, _) = (address.parse()?, number(count)?);
            let done = match *command {
                "send" => client::send(&to, count),
                "receive" => client::receive(&to, count),
                "echo" => client::echo(&to, count),
                "many" => client::many(&to, count),
                "half-close" => client::half_close(&to, count),
                _ => return Err(USAGE.to_owned()),
            };
            (count, done.map_err(|error| format!("{address}: {error}"))?)
        }
        _ => return Err(USAGE.to_owned()),
    };
    println!("agent: end {command} count={count} ns={}{more}", begun.elapsed().as_nanos());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes with its test.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("agent-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_command_comes_to_its_end() {
        let folder = Folder::new("commands");
        let address = format!("unix:{}", folder.0.join("s").display());
        let server = server::Server::listen(&address.parse().unwrap()).unwrap();
        std::thread::spawn(move || server.run());
        let file = folder.0.join("f").display().to_string();
        for command in [
            &["send", &address, "3000000"][..],
            &["send", &address, "0"],
            &["receive", &address, "3000000"],
            &["echo", &address, "10"],
            &["many", &address, "10"],
            &["half-close", &address, "10"],
            &["fsync", &file, "2"],
        ] {
            assert_eq!(run(command), Ok(()), "{command:?}");
        }
        assert!(run(&["send", &format!("{address}x"), "1"]).is_err());
    }

    #[test]
    fn what_is_no_command_line_is_refused() {
        for command in [
            &[][..],
            &["serve"],
            &["send", "unix:/nonexistent"],
            &["fetch", "unix:/nonexistent", "1"],
            &["send", "unix:/nonexistent", "x"],
            &["echo", "tcp:1", "1"],
        ] {
            assert!(run(command).is_err(), "{command:?}");
        }
    }
}
