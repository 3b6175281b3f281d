//! Turns a profile into instructions of the kernel's classic packet filter.
//!
//! Calls that are decided without looking at arguments come first, as ranges of neighbouring numbers with the same
//! action: the kernel remembers these per number and does not run the program for them again.

use super::{Action, Comparison, Condition, Profile, ProfileError, Rule};

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OURS: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OURS: u32 = 0xc000_00b7;

/// Bit of the second set of numbers that an x86-64 kernel takes; profiles speak of the first.
const X32: u32 = 0x4000_0000;
const NO_SUCH_CALL: u32 = 38;
const LONGEST: usize = 4096;

#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

fn op(code: u16, value: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, value }
}

/// Jumps over `yes` or `no` instructions.
fn jump(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

/// The program as the kernel reads it, eight bytes per instruction.
pub(super) fn assemble(profile: &Profile) -> Result<Vec<u8>, ProfileError> {
    let mut code =
        vec![op(LOAD, ARCHITECTURE), jump(JUMP_EQUAL, OURS, 1, 0), op(RETURN, result(foreign(profile.default))), op(LOAD, NUMBER)];
    if cfg!(target_arch = "x86_64") {
        code.push(jump(JUMP_GREATER_OR_EQUAL, X32, 0, 1));
        code.push(op(RETURN, result(foreign(profile.default))));
    }
    for (first, last, action) in ranges(&profile.rules) {
        if first == last {
            code.push(jump(JUMP_EQUAL, first, 0, 1));
        } else {
            code.push(jump(JUMP_GREATER_OR_EQUAL, first, 0, 2));
            code.push(jump(JUMP_GREATER, last, 1, 0));
        }
        code.push(op(RETURN, result(action)));
    }
    for rule in profile.rules.iter().filter(|rule| !unconditional(&profile.rules, rule.call)) {
        code.extend(conditional(rule));
    }
    code.push(op(RETURN, result(profile.default)));
    if code.len() > LONGEST {
        return Err(ProfileError::TooLong(code.len()));
    }
    let mut bytes = Vec::with_capacity(code.len() * 8);
    for Instruction { code, yes, no, value } in code {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[yes, no]);
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    Ok(bytes)
}

/// Calls of another architecture are not in the profile; where that allows by default, they are still not ours to judge.
fn foreign(default: Action) -> Action {
    if default == Action::Allow { Action::Allow } else { Action::Errno(NO_SUCH_CALL) }
}

/// Whether the first rule of a call has no conditions, so that it alone decides.
fn unconditional(rules: &[Rule], call: u32) -> bool {
    rules.iter().find(|rule| rule.call == call).is_some_and(|rule| rule.conditions.is_empty())
}

fn ranges(rules: &[Rule]) -> Vec<(u32, u32, Action)> {
    let mut decided: Vec<(u32, Action)> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.conditions.is_empty() && unconditional(rules, rule.call)) {
        if decided.iter().all(|(call, _)| *call != rule.call) {
            decided.push((rule.call, rule.action));
        }
    }
    decided.sort_by_key(|(call, _)| *call);
    let mut ranges: Vec<(u32, u32, Action)> = Vec::new();
    for (call, action) in decided {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == call && *same == action => *last = call,
            _ => ranges.push((call, call, action)),
        }
    }
    ranges
}

/// One rule with conditions. The number is loaded again because conditions load arguments in its place.
fn conditional(rule: &Rule) -> Vec<Instruction> {
    let conditions: Vec<Vec<Instruction>> = rule.conditions.iter().map(|c| compare(*c)).collect();
    let length: usize = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = vec![op(LOAD, NUMBER), jump(JUMP_EQUAL, rule.call, 0, u8::try_from(length).unwrap_or(u8::MAX))];
    let mut left = length;
    for condition in conditions {
        left -= condition.len();
        // `compare` marks a jump to the next rule with 255; that is `left` instructions past the end of the condition.
        let size = condition.len();
        for (place, mut instruction) in condition.into_iter().enumerate() {
            let out = u8::try_from(size - place - 1 + left).unwrap_or(u8::MAX);
            instruction.yes = if instruction.yes == OUT { out } else { instruction.yes };
            instruction.no = if instruction.no == OUT { out } else { instruction.no };
            code.push(instruction);
        }
    }
    code.push(op(RETURN, result(rule.action)));
    code
}

/// Mark of a jump that leaves the rule.
const OUT: u8 = u8::MAX;

/// Compares a 64-bit argument in two halves; falls through when the condition holds.
fn compare(condition: Condition) -> Vec<Instruction> {
    let offset = ARGUMENTS + 8 * u32::from(condition.argument);
    let (low_at, high_at) = if cfg!(target_endian = "little") { (offset, offset + 4) } else { (offset + 4, offset) };
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    match condition.comparison {
        Comparison::Equal => vec![op(LOAD, high_at), jump(JUMP_EQUAL, high, 0, OUT), op(LOAD, low_at), jump(JUMP_EQUAL, low, 0, OUT)],
        Comparison::NotEqual => vec![op(LOAD, high_at), jump(JUMP_EQUAL, high, 0, 2), op(LOAD, low_at), jump(JUMP_EQUAL, low, OUT, 0)],
        Comparison::Masked(mask) => vec![
            op(LOAD, high_at),
            op(AND, (mask >> 32) as u32),
            jump(JUMP_EQUAL, high, 0, OUT),
            op(LOAD, low_at),
            op(AND, mask as u32),
            jump(JUMP_EQUAL, low, 0, OUT),
        ],
        Comparison::Greater => ordered(high_at, low_at, high, low, JUMP_GREATER, true),
        Comparison::GreaterOrEqual => ordered(high_at, low_at, high, low, JUMP_GREATER_OR_EQUAL, true),
        Comparison::Less => ordered(high_at, low_at, high, low, JUMP_GREATER_OR_EQUAL, false),
        Comparison::LessOrEqual => ordered(high_at, low_at, high, low, JUMP_GREATER, false),
    }
}

/// `upward`: holds when the argument is above; otherwise holds when the same comparison fails.
fn ordered(high_at: u32, low_at: u32, high: u32, low: u32, low_jump: u16, upward: bool) -> Vec<Instruction> {
    let (above, below) = if upward { (3, OUT) } else { (OUT, 3) };
    let (yes, no) = if upward { (0, OUT) } else { (OUT, 0) };
    vec![
        op(LOAD, high_at),
        jump(JUMP_GREATER, high, above, 0),
        jump(JUMP_EQUAL, high, 0, below_from_second(below)),
        op(LOAD, low_at),
        jump(low_jump, low, yes, no),
    ]
}

/// The second jump stands one instruction later than the first.
fn below_from_second(distance: u8) -> u8 {
    if distance == OUT { OUT } else { distance - 1 }
}

fn result(action: Action) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0x0000_0000,
        Action::Trap => 0x0003_0000,
        Action::Errno(number) => 0x0005_0000 | (number & 0xffff),
        Action::Trace(data) => 0x7ff0_0000 | (data & 0xffff),
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn decide(bytes: &[u8], call: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend_from_slice(&call.to_ne_bytes());
        data.extend_from_slice(&OURS.to_ne_bytes());
        data.extend_from_slice(&[0; 8]);
        arguments.iter().for_each(|argument| data.extend_from_slice(&argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let c = &bytes[at * 8..at * 8 + 8];
            let value = u32::from_ne_bytes([c[4], c[5], c[6], c[7]]);
            let holds = match u16::from_ne_bytes([c[0], c[1]]) {
                LOAD => {
                    let place = value as usize;
                    accumulator = u32::from_ne_bytes(data[place..place + 4].try_into().expect("four bytes"));
                    at += 1;
                    continue;
                }
                AND => {
                    accumulator &= value;
                    at += 1;
                    continue;
                }
                RETURN => return value,
                JUMP_EQUAL => accumulator == value,
                JUMP_GREATER => accumulator > value,
                JUMP_GREATER_OR_EQUAL => accumulator >= value,
                code => panic!("unknown instruction {code:#x}"),
            };
            at += 1 + usize::from(if holds { c[2] } else { c[3] });
        }
    }

    #[test]
    fn programs_decide_as_the_rules_say() {
        let big = 0x1_0000_0005;
        let rule =
            |call, comparison, value| Rule { call, conditions: vec![Condition { argument: 1, comparison, value }], action: Action::Allow };
        let plain = |call| Rule { call, conditions: vec![], action: Action::Allow };
        let rules = vec![
            plain(3),
            plain(4),
            plain(5),
            plain(9),
            rule(10, Comparison::Equal, big),
            rule(11, Comparison::NotEqual, big),
            rule(12, Comparison::Less, big),
            rule(13, Comparison::LessOrEqual, big),
            rule(14, Comparison::Greater, big),
            rule(15, Comparison::GreaterOrEqual, big),
            rule(16, Comparison::Masked(0xf0), 0x20),
            rule(17, Comparison::Equal, 1),
            rule(17, Comparison::Equal, 2),
        ];
        let bytes = assemble(&Profile { default: Action::Errno(1), rules }).expect("short");
        let allowed = |call, argument| decide(&bytes, call, [0, argument, 0, 0, 0, 0]) == result(Action::Allow);
        for (call, want) in [(2, false), (3, true), (4, true), (5, true), (6, false), (9, true), (40, false)] {
            assert_eq!(allowed(call, 0), want, "call {call}");
        }
        for value in [0, 5, 6, big - 1, big, big + 1, big + (1 << 32), u64::MAX] {
            assert_eq!(allowed(10, value), value == big, "= {value:#x}");
            assert_eq!(allowed(11, value), value != big, "!= {value:#x}");
            assert_eq!(allowed(12, value), value < big, "< {value:#x}");
            assert_eq!(allowed(13, value), value <= big, "<= {value:#x}");
            assert_eq!(allowed(14, value), value > big, "> {value:#x}");
            assert_eq!(allowed(15, value), value >= big, ">= {value:#x}");
        }
        assert!(allowed(16, 0x12f) && !allowed(16, 0x1ff));
        assert!(allowed(17, 1) && allowed(17, 2) && !allowed(17, 3));
    }
}
