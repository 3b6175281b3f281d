//! What functions take and give, one line each.
//!
//! `target.name(args) -> result`; `list` and `map` without more are of anything, `item` is what a list is of,
//! `same` is the type of the target or first argument, `any` is anything.

use std::sync::OnceLock;

use crate::types::Type;

static TEXT: &str = "
size(string)->int
size(bytes)->int
size(list)->int
size(map)->int
string.size()->int
bytes.size()->int
list.size()->int
map.size()->int
type(any)->type
dyn(any)->dyn
int(int)->int
int(uint)->int
int(double)->int
int(string)->int
int(timestamp)->int
int(duration)->int
uint(uint)->uint
uint(int)->uint
uint(double)->uint
uint(string)->uint
double(double)->double
double(int)->double
double(uint)->double
double(string)->double
bool(bool)->bool
bool(string)->bool
bytes(bytes)->bytes
bytes(string)->bytes
string(string)->string
string(bool)->string
string(int)->string
string(uint)->string
string(double)->string
string(bytes)->string
string(timestamp)->string
string(duration)->string
string(net.IP)->string
string(net.CIDR)->string
timestamp(string)->timestamp
timestamp(timestamp)->timestamp
timestamp(int)->timestamp
duration(string)->duration
duration(duration)->duration
duration(int)->duration
timestamp.getFullYear()->int
timestamp.getFullYear(string)->int
timestamp.getMonth()->int
timestamp.getMonth(string)->int
timestamp.getDayOfYear()->int
timestamp.getDayOfYear(string)->int
timestamp.getDayOfMonth()->int
timestamp.getDayOfMonth(string)->int
timestamp.getDate()->int
timestamp.getDate(string)->int
timestamp.getDayOfWeek()->int
timestamp.getDayOfWeek(string)->int
timestamp.getHours()->int
timestamp.getHours(string)->int
timestamp.getMinutes()->int
timestamp.getMinutes(string)->int
timestamp.getSeconds()->int
timestamp.getSeconds(string)->int
timestamp.getMilliseconds()->int
timestamp.getMilliseconds(string)->int
duration.getHours()->int
duration.getMinutes()->int
duration.getSeconds()->int
duration.getMilliseconds()->int
matches(string,string)->bool
string.contains(string)->bool
string.startsWith(string)->bool
string.endsWith(string)->bool
string.matches(string)->bool
string.find(string)->string
string.findAll(string)->list(string)
string.findAll(string,int)->list(string)
string.charAt(int)->string
string.indexOf(string)->int
string.indexOf(string,int)->int
string.lastIndexOf(string)->int
string.lastIndexOf(string,int)->int
string.lowerAscii()->string
string.upperAscii()->string
string.trim()->string
string.replace(string,string)->string
string.replace(string,string,int)->string
string.split(string)->list(string)
string.split(string,int)->list(string)
string.substring(int)->string
string.substring(int,int)->string
string.format(list)->string
strings.quote(string)->string
list.join()->string
list.join(string)->string
list.isSorted()->bool
list.sum()->item
list.min()->item
list.max()->item
list.indexOf(any)->int
list.lastIndexOf(any)->int
list.slice(int,int)->same
list.flatten()->list
list.flatten(int)->list
list.reverse()->same
list.distinct()->same
list.sort()->same
list.first()->optional
list.last()->optional
lists.range(int)->list(int)
sets.contains(list,list)->bool
sets.equivalent(list,list)->bool
sets.intersects(list,list)->bool
url(string)->kubernetes.URL
isURL(string)->bool
kubernetes.URL.getScheme()->string
kubernetes.URL.getHost()->string
kubernetes.URL.getHostname()->string
kubernetes.URL.getPort()->string
kubernetes.URL.getEscapedPath()->string
kubernetes.URL.getQuery()->map
quantity(string)->kubernetes.Quantity
isQuantity(string)->bool
kubernetes.Quantity.sign()->int
kubernetes.Quantity.isInteger()->bool
kubernetes.Quantity.asInteger()->int
kubernetes.Quantity.asApproximateFloat()->double
kubernetes.Quantity.add(kubernetes.Quantity)->kubernetes.Quantity
kubernetes.Quantity.add(int)->kubernetes.Quantity
kubernetes.Quantity.sub(kubernetes.Quantity)->kubernetes.Quantity
kubernetes.Quantity.sub(int)->kubernetes.Quantity
kubernetes.Quantity.isGreaterThan(kubernetes.Quantity)->bool
kubernetes.Quantity.isLessThan(kubernetes.Quantity)->bool
kubernetes.Quantity.compareTo(kubernetes.Quantity)->int
semver(string)->kubernetes.Semver
semver(string,bool)->kubernetes.Semver
isSemver(string)->bool
isSemver(string,bool)->bool
kubernetes.Semver.major()->int
kubernetes.Semver.minor()->int
kubernetes.Semver.patch()->int
kubernetes.Semver.isGreaterThan(kubernetes.Semver)->bool
kubernetes.Semver.isLessThan(kubernetes.Semver)->bool
kubernetes.Semver.compareTo(kubernetes.Semver)->int
ip(string)->net.IP
isIP(string)->bool
ip.isCanonical(string)->bool
net.IP.family()->int
net.IP.isUnspecified()->bool
net.IP.isLoopback()->bool
net.IP.isLinkLocalMulticast()->bool
net.IP.isLinkLocalUnicast()->bool
net.IP.isGlobalUnicast()->bool
cidr(string)->net.CIDR
isCIDR(string)->bool
net.CIDR.containsIP(net.IP)->bool
net.CIDR.containsIP(string)->bool
net.CIDR.containsCIDR(net.CIDR)->bool
net.CIDR.containsCIDR(string)->bool
net.CIDR.ip()->net.IP
net.CIDR.masked()->net.CIDR
net.CIDR.prefixLength()->int
format.named(string)->optional
format.dns1123Label()->kubernetes.NamedFormat
format.dns1123Subdomain()->kubernetes.NamedFormat
format.dns1035Label()->kubernetes.NamedFormat
format.qualifiedName()->kubernetes.NamedFormat
format.dns1123LabelPrefix()->kubernetes.NamedFormat
format.dns1123SubdomainPrefix()->kubernetes.NamedFormat
format.dns1035LabelPrefix()->kubernetes.NamedFormat
format.labelValue()->kubernetes.NamedFormat
format.uri()->kubernetes.NamedFormat
format.uuid()->kubernetes.NamedFormat
format.byte()->kubernetes.NamedFormat
format.date()->kubernetes.NamedFormat
format.datetime()->kubernetes.NamedFormat
kubernetes.NamedFormat.validate(string)->optional
jsonpatch.escapeKey(string)->string
optional.of(any)->optional
optional.none()->optional
optional.ofNonZeroValue(any)->optional
optional.unwrap(list)->list
optional.hasValue()->bool
optional.value()->item
optional.or(optional)->same
optional.orValue(any)->item
list.unwrapOpt()->list
kubernetes.authorization.Authorizer.path(string)->kubernetes.authorization.PathCheck
kubernetes.authorization.Authorizer.group(string)->kubernetes.authorization.GroupCheck
kubernetes.authorization.Authorizer.serviceAccount(string,string)->kubernetes.authorization.Authorizer
kubernetes.authorization.PathCheck.check(string)->kubernetes.authorization.Decision
kubernetes.authorization.GroupCheck.resource(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.subresource(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.namespace(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.name(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.fieldSelector(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.labelSelector(string)->kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck.check(string)->kubernetes.authorization.Decision
kubernetes.authorization.Decision.allowed()->bool
kubernetes.authorization.Decision.reason()->string
kubernetes.authorization.Decision.errored()->bool
kubernetes.authorization.Decision.error()->string
";

/// One line of the table.
struct Signature {
    name: &'static str,
    target: Option<&'static str>,
    args: Vec<&'static str>,
    result: &'static str,
}

fn table() -> &'static [Signature] {
    static TABLE: OnceLock<Vec<Signature>> = OnceLock::new();
    TABLE.get_or_init(|| TEXT.lines().filter_map(parse).collect())
}

fn parse(line: &'static str) -> Option<Signature> {
    let (head, result) = line.split_once("->")?;
    let (path, args) = head.strip_suffix(')')?.split_once('(')?;
    let (target, name) = match path.rsplit_once('.') {
        // Functions with a dotted name have no target.
        Some((prefix, _)) if is_namespace(prefix, path) => (None, path),
        Some((target, name)) => (Some(target), name),
        None => (None, path),
    };
    let args = args.split(',').filter(|arg| !arg.is_empty()).collect();
    Some(Signature { name, target, args, result })
}

fn is_namespace(prefix: &str, path: &str) -> bool {
    match prefix {
        "optional" => matches!(path, "optional.of" | "optional.none" | "optional.ofNonZeroValue" | "optional.unwrap"),
        "sets" | "strings" | "lists" | "ip" | "format" | "jsonpatch" => true,
        _ => false,
    }
}

/// Whether any function has the name, with or without a target.
pub(crate) fn is_known(name: &str) -> bool {
    table().iter().any(|signature| signature.name == name)
}

/// What a call gives; `None` when no function fits.
pub(crate) fn result(name: &str, target: Option<&Type>, args: &[Type]) -> Option<Type> {
    let mut results = table().iter().filter(|signature| {
        signature.name == name
            && signature.args.len() == args.len()
            && signature.target.is_some() == target.is_some()
            && signature.target.zip(target).is_none_or(|(wanted, target)| fits(target, wanted))
            && signature.args.iter().zip(args).all(|(wanted, arg)| fits(arg, wanted))
    });
    let first = results.next()?;
    // Where the types leave several, only a common result is known.
    if results.any(|other| other.result != first.result) {
        return Some(Type::Dyn);
    }
    Some(named(first.result, target.or(args.first())))
}

fn fits(value: &Type, wanted: &'static str) -> bool {
    match (wanted, value) {
        (_, Type::Dyn) | ("any", _) => true,
        ("list", Type::List(_)) | ("map", Type::Map(..)) | ("optional", Type::Optional(_)) => true,
        ("map", Type::Object(_)) => true,
        (wanted, value) => *value == named(wanted, None),
    }
}

fn named(name: &'static str, subject: Option<&Type>) -> Type {
    match name {
        "dyn" | "any" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "list" => Type::list(Type::Dyn),
        "list(string)" => Type::list(Type::String),
        "list(int)" => Type::list(Type::Int),
        "map" => Type::map(Type::Dyn),
        "optional" => Type::Optional(Box::new(match subject {
            Some(Type::List(item)) => (**item).clone(),
            _ => Type::Dyn,
        })),
        "same" => subject.cloned().unwrap_or(Type::Dyn),
        "item" => match subject {
            Some(Type::List(item) | Type::Optional(item)) => (**item).clone(),
            _ => Type::Dyn,
        },
        library => Type::Library(library),
    }
}
