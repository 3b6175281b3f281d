//! Who gets which devices.

use super::*;

const R: &str = "example.com/device";
const NOWHERE: Hint = Hint { nodes: None, preferred: false };

/// Devices `d0`, `d1`, ... near to these nodes; `None` is out of order.
fn state(nodes: &[Option<u32>]) -> State {
    let device = |(place, node): (usize, &Option<u32>)| {
        (format!("d{place}"), Device { healthy: node.is_some(), nodes: node.filter(|node| *node < 64).into_iter().collect() })
    };
    State { resources: BTreeMap::from([(R.to_owned(), nodes.iter().enumerate().map(device).collect())]), ..State::default() }
}

fn claim(name: &str, count: usize) -> Claim {
    Claim { name: name.into(), extended: BTreeMap::from([(R.to_owned(), count)]), ..Claim::default() }
}

fn give(state: &mut State, uid: &str, claim: &Claim, hint: Hint, preferred: &[&str]) -> Result<Vec<String>, String> {
    let choice = state.choose(uid, &claim.name, R, claim.extended[R], hint).map_err(|error| error.to_string())?;
    if let Some(choice) = choice {
        let ids = choice.decide(&preferred.iter().map(|id| (*id).to_owned()).collect());
        state.give(uid, &claim.name, R, &ids, ContainerAllocateResponse::default());
    }
    state.note_reusable(uid, claim);
    Ok(state.share(uid, &claim.name, R).map(|share| share.devices.keys().cloned().collect()).unwrap_or_default())
}

fn on(nodes: &[u32]) -> Hint {
    Hint { nodes: Some(Mask::of(nodes.iter().copied())), preferred: true }
}

#[test]
fn free_devices_in_order_are_given() {
    let mut state = state(&[Some(99), None, Some(99), Some(99)]);
    assert_eq!(give(&mut state, "a", &claim("c", 1), NOWHERE, &["d1", "d3"]).unwrap(), ["d3"]);
    assert_eq!(give(&mut state, "a", &claim("c", 1), NOWHERE, &[]).unwrap(), ["d3"], "asked again");
    let refused = give(&mut state, "b", &claim("c", 3), NOWHERE, &[]).unwrap_err();
    assert_eq!(refused, "requested number of devices unavailable for example.com/device. Requested: 3, Available: 2");
    assert_eq!(give(&mut state, "b", &claim("c", 2), NOWHERE, &[]).unwrap(), ["d0", "d2"]);
    state.resources.get_mut(R).unwrap().get_mut("d3").unwrap().healthy = false;
    let refused = give(&mut state, "a", &claim("c", 1), NOWHERE, &[]).unwrap_err();
    assert_eq!(refused, "previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.com/device");
    assert!(state.release("b") && !state.release("b"));
    assert_eq!(give(&mut state, "d", &claim("c", 1), NOWHERE, &[]).unwrap(), ["d0"]);
    state.resources.insert(R.to_owned(), BTreeMap::new());
    let refused = give(&mut state, "e", &claim("c", 1), NOWHERE, &[]).unwrap_err();
    assert_eq!(refused, "no healthy devices present; cannot allocate unhealthy devices example.com/device");
}

#[test]
fn init_containers_leave_theirs_and_sidecars_keep_them() {
    let mut state = state(&[Some(99), Some(99), Some(99)]);
    assert_eq!(give(&mut state, "a", &Claim { once: true, ..claim("i", 2) }, NOWHERE, &[]).unwrap(), ["d0", "d1"]);
    assert_eq!(give(&mut state, "a", &Claim { sidecar: true, ..claim("s", 1) }, NOWHERE, &["d2"]).unwrap(), ["d0"]);
    assert_eq!(give(&mut state, "a", &claim("c", 2), NOWHERE, &[]).unwrap(), ["d1", "d2"]);
    assert!(give(&mut state, "b", &claim("c", 1), NOWHERE, &[]).is_err());
}

#[test]
fn devices_near_to_the_picked_nodes_come_first() {
    let all = [Some(0), Some(1), Some(1), Some(99), Some(1)];
    assert_eq!(give(&mut state(&all), "a", &claim("c", 1), on(&[1]), &["d0", "d4"]).unwrap(), ["d4"]);
    assert_eq!(give(&mut state(&all), "a", &claim("c", 4), on(&[1]), &["d3"]).unwrap(), ["d1", "d2", "d3", "d4"]);
    assert_eq!(give(&mut state(&all), "a", &claim("c", 4), on(&[1]), &[]).unwrap(), ["d0", "d1", "d2", "d4"]);
    let state = state(&all);
    let hints = state.hints(&[0, 1], "a", &claim("c", 2));
    assert_eq!(hints[R].as_deref(), Some(&[on(&[1]), Hint { preferred: false, ..on(&[0, 1]) }][..]));
    let hints = state.hints(&[0, 1], "a", &claim("c", 4));
    assert_eq!(hints[R].as_deref(), Some(&[on(&[0, 1])][..]));
    assert_eq!(state.hints(&[0, 1], "a", &claim("c", 5))[R].as_deref(), Some(&[][..]));
    assert_eq!(super::tests::state(&[Some(99)]).hints(&[0, 1], "a", &claim("c", 1))[R], None);
}
