//! Connection tracking entries of UDP flows that lead nowhere any more, and their removal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustix::io::Errno;

use crate::netlink::{Message, NetlinkError, Socket, attribute, read_address, read_be16};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;

/// Fronts (no address: any of this machine) and where their flows may lead.
pub(crate) type Fronts = BTreeMap<(Option<IpAddr>, u16), BTreeSet<(IpAddr, u16)>>;

#[derive(Debug)]
struct Flow {
    destination: (IpAddr, u16),
    /// Who answers: the endpoint, or the destination itself if nothing was translated.
    answerer: (IpAddr, u16),
}

/// Removes the UDP flows to these fronts that do not lead where they may, and counts them.
pub(crate) fn remove_stale(socket: &mut Socket, fronts: &Fronts) -> Result<usize, NetlinkError> {
    if fronts.is_empty() {
        return Ok(0);
    }
    let mut messages = Vec::new();
    // Family 0 is all of them.
    socket.dump(Message::new("list tracked flows", SUBSYSTEM | GET, 0, &[0; 4]), |_, payload| {
        if let Some(message) = stale(fronts, payload) {
            messages.push(message);
        }
    })?;
    let count = messages.len();
    socket.exchange(messages)?;
    Ok(count)
}

/// Whether flows can be listed at all.
pub(crate) fn probe(socket: &mut Socket) -> Result<(), NetlinkError> {
    socket.dump(Message::new("list tracked flows", SUBSYSTEM | GET, 0, &[0; 4]), |_, _| {})
}

fn stale(fronts: &Fronts, payload: &[u8]) -> Option<Message> {
    let family = *payload.first()?;
    let rest = payload.get(4..)?;
    let original = attribute(rest, TUPLE_ORIGINAL)?;
    let (_, destination) = tuple(original)?;
    let (answerer, _) = tuple(attribute(rest, TUPLE_REPLY)?)?;
    let flow = Flow { destination, answerer };
    if !leads_nowhere(fronts, &flow) {
        return None;
    }
    let mut message = Message::new("remove a tracked flow", SUBSYSTEM | DELETE, 0, &[family, 0, 0, 0]);
    message.bytes(TUPLE_ORIGINAL | NESTED, original);
    if let Some(zone) = attribute(rest, ZONE) {
        message.bytes(ZONE, zone);
    }
    Some(message.tolerate(&[Errno::NOENT]))
}

fn leads_nowhere(fronts: &Fronts, flow: &Flow) -> bool {
    let (address, port) = flow.destination;
    let translated = flow.answerer != flow.destination;
    if let Some(allowed) = fronts.get(&(Some(address), port)) {
        return !allowed.contains(&flow.answerer);
    }
    // Other traffic of this machine may use the number of a node port as its destination.
    let allowed = fronts.get(&(None, port)).filter(|_| translated);
    allowed.is_some_and(|allowed| !allowed.contains(&flow.answerer))
}

type End = (IpAddr, u16);

/// Source and destination of a UDP tuple.
fn tuple(bytes: &[u8]) -> Option<(End, End)> {
    let addresses = attribute(bytes, 1)?;
    let ports = attribute(bytes, 2)?;
    if attribute(ports, 1)? != [UDP] {
        return None;
    }
    let source = attribute(addresses, 1).or_else(|| attribute(addresses, 3)).and_then(read_address)?;
    let destination = attribute(addresses, 2).or_else(|| attribute(addresses, 4)).and_then(read_address)?;
    let port = |kind| attribute(ports, kind).and_then(read_be16);
    Some(((source, port(2)?), (destination, port(3)?)))
}
