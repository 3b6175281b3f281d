//! What a StatefulSet does next, as a pure function of its slots: strict order, one at a time, unless it is parallel.

/// A pod of the set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Slot {
    pub(crate) ordinal: i32,
    /// Name of its revision.
    pub(crate) revision: String,
    pub(crate) ready: bool,
    pub(crate) available: bool,
    pub(crate) leaving: bool,
    /// Failed or succeeded.
    pub(crate) ended: bool,
}

impl Slot {
    fn is_healthy(&self) -> bool {
        self.ready && !self.leaving
    }
}

/// How the set wants to be treated.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) start: i32,
    pub(crate) replicas: i32,
    pub(crate) parallel: bool,
    /// Rolling update down to this ordinal (counted from zero); `None` for `OnDelete`.
    pub(crate) partition: Option<i32>,
    /// Pods that may be down during an update.
    pub(crate) max_unavailable: i32,
    pub(crate) current: String,
    pub(crate) update: String,
    /// The set itself is being deleted.
    pub(crate) leaving: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the pod of an ordinal in a revision.
    Create(i32, String),
    /// Remove a pod to make it again, or for good.
    Delete(i32),
    /// Remove a pod that is too many.
    Condemn(i32),
}

/// Counts for the status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) replicas: i32,
    pub(crate) ready: i32,
    pub(crate) available: i32,
    pub(crate) current: i32,
    pub(crate) updated: i32,
}

/// Each count has a predicate of its own.
pub(crate) fn count(slots: &[Slot], wish: &Wish) -> Counts {
    let count = |is: &dyn Fn(&Slot) -> bool| slots.iter().filter(|slot| is(slot)).count() as i32;
    Counts {
        replicas: slots.len() as i32,
        ready: count(&|slot| slot.ready),
        available: count(&|slot| slot.available),
        current: count(&|slot| !slot.leaving && slot.revision == wish.current),
        updated: count(&|slot| !slot.leaving && slot.revision == wish.update),
    }
}

/// Plans one round.
pub(crate) fn plan(slots: &[Slot], wish: &Wish) -> Vec<Step> {
    if wish.leaving {
        return Vec::new();
    }
    let end = wish.start + wish.replicas;
    let find = |ordinal: i32| slots.iter().find(|slot| slot.ordinal == ordinal);
    let mut steps = Vec::new();
    for ordinal in wish.start..end {
        match find(ordinal) {
            Some(slot) if slot.ended => {
                if !slot.leaving {
                    steps.push(Step::Delete(ordinal));
                }
                if !wish.parallel {
                    return steps;
                }
            }
            None => {
                steps.push(Step::Create(ordinal, revision_for(ordinal, wish).to_owned()));
                if !wish.parallel {
                    return steps;
                }
            }
            Some(slot) if !wish.parallel && (slot.leaving || !slot.ready || !slot.available) => {
                // A living pod is not well, so nothing else happens in order.
                return steps;
            }
            Some(_) => {}
        }
    }
    if wish.parallel {
        let surplus = slots.iter().filter(|slot| !(wish.start..end).contains(&slot.ordinal) && !slot.leaving);
        steps.extend(surplus.map(|slot| Step::Condemn(slot.ordinal)));
    } else {
        let mut condemned: Vec<&Slot> = slots.iter().filter(|slot| !(wish.start..end).contains(&slot.ordinal)).collect();
        condemned.sort_by_key(|slot| -slot.ordinal);
        let first_sick = condemned.iter().filter(|slot| !slot.is_healthy()).map(|slot| slot.ordinal).min();
        if let Some(slot) = condemned.first() {
            let waits = slot.leaving
                || (!slot.ready && first_sick != Some(slot.ordinal))
                || (!slot.available && first_sick.is_some_and(|sick| sick != slot.ordinal));
            return if waits { Vec::new() } else { vec![Step::Condemn(slot.ordinal)] };
        }
    }
    if let (Some(partition), true) = (wish.partition, steps.is_empty()) {
        steps.extend(update(slots, wish, wish.start + partition));
    }
    steps
}

/// The revision in which a missing pod is made.
fn revision_for(ordinal: i32, wish: &Wish) -> &str {
    match wish.partition {
        Some(partition) if ordinal < wish.start + partition => &wish.current,
        _ => &wish.update,
    }
}

/// Replaces pods of another revision, the largest ordinal first, while no more than allowed are down.
fn update(slots: &[Slot], wish: &Wish, lowest: i32) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut down = slots.iter().filter(|slot| slot.ordinal >= lowest && (!slot.is_healthy() || !slot.available)).count() as i32;
    if wish.max_unavailable <= 1 {
        for ordinal in (lowest..wish.start + wish.replicas).rev() {
            let Some(slot) = slots.iter().find(|slot| slot.ordinal == ordinal) else {
                continue;
            };
            if slot.revision != wish.update && !slot.leaving {
                return vec![Step::Delete(ordinal)];
            }
            if !slot.is_healthy() || !slot.available {
                return steps;
            }
        }
        return steps;
    }
    for ordinal in (lowest..wish.start + wish.replicas).rev() {
        let Some(slot) = slots.iter().find(|slot| slot.ordinal == ordinal).filter(|slot| slot.revision != wish.update && !slot.leaving)
        else {
            continue;
        };
        let sick = !slot.ready || !slot.available;
        if !sick && down >= wish.max_unavailable {
            break;
        }
        down += i32::from(!sick);
        steps.push(Step::Delete(ordinal));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots in order: `o`/`n` old or new and not ready, upper case ready, `x` leaving, `f` ended, `.` missing.
    fn check(text: &str, replicas: i32, parallel: bool, partition: Option<i32>, max_unavailable: i32, wanted: &[Step]) {
        let slots: Vec<Slot> = text
            .chars()
            .enumerate()
            .filter(|(_, letter)| *letter != '.')
            .map(|(ordinal, letter)| {
                let kind = letter.to_ascii_lowercase();
                let well = letter.is_ascii_uppercase();
                let revision = if kind == 'n' { "new" } else { "old" };
                Slot {
                    ordinal: ordinal as i32,
                    revision: revision.into(),
                    ready: well,
                    available: well,
                    leaving: kind == 'x',
                    ended: kind == 'f',
                }
            })
            .collect();
        let wish =
            Wish { start: 0, replicas, parallel, partition, max_unavailable, current: "old".into(), update: "new".into(), leaving: false };
        assert_eq!(plan(&slots, &wish), wanted, "{text} {replicas}");
    }

    fn create(ordinal: i32, revision: &str) -> Step {
        Step::Create(ordinal, revision.into())
    }

    #[test]
    fn ordered_sets() {
        check("", 3, false, Some(0), 1, &[create(0, "new")]);
        check("n", 3, false, Some(0), 1, &[]);
        check("N", 3, false, Some(0), 1, &[create(1, "new")]);
        check("NfN", 3, false, Some(0), 1, &[Step::Delete(1)]);
        check("NNN", 1, false, Some(0), 1, &[Step::Condemn(2)]);
        check("NNx", 1, false, Some(0), 1, &[]);
        check("NNn", 1, false, Some(0), 1, &[Step::Condemn(2)]);
        check("Nnn", 1, false, Some(0), 1, &[]);
        check("nNN", 1, false, Some(0), 1, &[]);
    }

    #[test]
    fn updates() {
        check("OOO", 3, false, Some(0), 1, &[Step::Delete(2)]);
        check("OOn", 3, false, Some(0), 1, &[]);
        check("OON", 3, false, Some(0), 1, &[Step::Delete(1)]);
        check("OON", 3, false, Some(2), 1, &[]);
        check("OO.", 3, false, Some(2), 1, &[create(2, "new")]);
        check("O..", 3, false, Some(2), 1, &[create(1, "old")]);
        check("OOO", 3, false, None, 1, &[]);
        check("OOOO", 4, true, Some(0), 2, &[Step::Delete(3), Step::Delete(2)]);
    }

    #[test]
    fn parallel_sets() {
        check("", 2, true, Some(0), 1, &[create(0, "new"), create(1, "new")]);
        check("nNN", 1, true, Some(0), 1, &[Step::Condemn(1), Step::Condemn(2)]);
    }
}
