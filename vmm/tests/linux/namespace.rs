// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network of a test's own: nobody else sees it, and it goes with the test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::{panic, thread};

use crate::rig::succeeds;
use crate::skip::skip;

/// Runs a test in a network namespace of its own, which has a loopback interface and nothing else. All that the test starts is
/// in there, too.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let thread = thread::Builder::new().name(name).spawn(move || {
        // SAFETY: gives this thread another network namespace, and changes nothing else.
        #[expect(unsafe_code, reason = "a system call")]
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result != 0 {
            return skip(&format!("no network namespace can be made: {}", std::io::Error::last_os_error()));
        }
        ip("link set lo up");
        test();
    });
    if let Err(panicked) = thread.unwrap().join() {
        panic::resume_unwind(panicked);
    }
}

/// iproute2, which has to succeed.
pub(crate) fn ip(arguments: &str) {
    succeeds(Command::new("ip").args(arguments.split_whitespace()));
}

/// An interface that leads nowhere, with a default route, as passt wants to see one. 192.0.2.0/24 and 2001:db8::/32 are for
/// documentation (RFC 5737, RFC 3849).
pub(crate) fn make_uplink() {
    ip("link add up0 type dummy");
    ip("link set up0 up");
    ip("address add 192.0.2.2/24 dev up0");
    ip("address add 2001:db8::2/64 dev up0 nodad");
    ip("route add default via 192.0.2.1 dev up0");
    ip("-6 route add default via 2001:db8::1 dev up0");
}

/// A program that is killed when it is dropped.
pub(crate) struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `netload serve`, ready.
pub(crate) fn serve_netload(port: u16) -> Served {
    let program = std::env::var_os("VMM_NETLOAD").unwrap_or_else(|| "netload".into());
    let mut command = Command::new(program);
    let mut child = Served(command.args(["serve", &port.to_string()]).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = [0; 15];
    child.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"netload: ready\n");
    child
}

/// A name server on the loopback interface that knows one address for all names. Ends with the value.
pub(crate) struct NameServer(Option<thread::JoinHandle<()>>);

/// Where it is.
const NAMES: &str = "127.0.0.1:53";

impl NameServer {
    pub(crate) fn start(address: [u8; 4]) -> Self {
        let socket = UdpSocket::bind(NAMES).unwrap();
        Self(Some(thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length @ 1.., client)) = socket.recv_from(&mut query) {
                let _ = socket.send_to(&answer(&query[..length], address), client);
            }
        })))
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let last = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], NAMES));
        if let (Ok(_), Some(thread)) = (last, self.0.take()) {
            let _ = thread.join();
        }
    }
}

/// A DHCP server (RFC 2131): the card with address 52:54:00:00:00:0N is offered 198.51.100.(16 N + 2)/28. Ends with the test
/// program.
pub(crate) fn serve_dhcp() {
    let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
    socket.set_broadcast(true).unwrap();
    thread::spawn(move || {
        let mut request = [0; 1500];
        while let Ok((length, _)) = socket.recv_from(&mut request) {
            if let Some((answer, card)) = lease(&request[..length]) {
                // Everybody in the card's own network.
                let _ = socket.send_to(&answer, (Ipv4Addr::new(198, 51, 100, card * 16 + 15), 68));
            }
        }
    });
}

/// An offer for a discover, and an acknowledgement for a request (RFC 2131 §2, RFC 2132 §9.6), and whose it is.
fn lease(request: &[u8]) -> Option<(Vec<u8>, u8)> {
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    let options = request.get(236..)?.strip_prefix(&COOKIE)?;
    // The type of the message comes first, as udhcpc has it.
    let kind = match options.strip_prefix(&[53, 1])?.first()? {
        1 => 2,
        3 => 5,
        _ => return None,
    };
    let card = request[33];
    let (server, client) = ([198, 51, 100, card * 16 + 1], [198, 51, 100, card * 16 + 2]);
    let mut answer = vec![0; 236];
    answer[..12].copy_from_slice(&request[..12]);
    answer[0] = 2;
    answer[16..20].copy_from_slice(&client);
    answer[28..44].copy_from_slice(&request[28..44]);
    answer.extend(COOKIE);
    answer.extend([53, 1, kind, 54, 4]);
    answer.extend(server);
    // For an hour, with a mask of 28 bits.
    answer.extend([51, 4, 0, 0, 14, 16, 1, 4, 255, 255, 255, 240, 255]);
    Some((answer, card))
}

/// The answer to a query of one name (RFC 1035 §4.1): the address where one for IPv4 was asked for, else that there is none.
fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = query[HEADER..].iter().position(|byte| *byte == 0).unwrap_or(0);
    let question = &query[HEADER..HEADER + name + 5];
    let is_a = question[question.len() - 4..] == [0, 1, 0, 1];
    // The same number; a response, recursion available; one question, and one answer or none.
    let mut bytes = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]].concat();
    bytes.extend_from_slice(question);
    if is_a {
        // The name is that at offset 12; type A, class IN, 60 seconds, 4 bytes.
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend_from_slice(&address);
    }
    bytes
}

/// What a web server says.
pub(crate) fn http_get(address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}
