/* Plain words for every Reason of observability/events.py (a test compares the two lists).

   title: a few words for the row.  what: what happened.  todo: what a person can do, empty when nothing is wrong.
   fix:  'allow'  the one-click "Allow this host" helps
         'direct' the server went around the proxy; `direct: allow` or its proxy settings help
         'form'   only a deliberate edit of the server's network rules helps
         ''       no change of policy helps */

const reason = (title, what, todo, fix = '') => ({ title, what, todo, fix });
const PRIVATE_TODO = 'If you mean to reach this address, open the server\u2019s network rules and name it there on purpose: as an IP rule, or with \u201cmay be private\u201d ticked on the host.';

export const REASONS = {
  empty_policy: reason('nothing is allowed yet', 'This server\u2019s rules name no host, so everything it tries is blocked.', 'Allow the host if you know why the server needs it.', 'allow'),
  host_not_allowed: reason('host not allowed', 'No rule of this server names this host. The name was not even looked up.', 'Allow the host if you know why the server needs it.', 'allow'),
  port_not_allowed: reason('port not allowed', 'The host is allowed, but not on this port.', 'Allow the host on this port if the server needs it.', 'allow'),
  ip_not_allowed: reason('bare IP address', 'The server asked for an IP address instead of a name, and no rule names that address.', 'Prefer to allow a host name. Allow the address only if you know whose it is.', 'allow'),
  direct_attempt: reason('went around the proxy', 'The server opened a connection itself instead of asking Stockade\u2019s proxy. Nothing got out.', 'See \u201cAround the proxy\u201d for what to change.', 'direct'),
  address_loopback: reason('loopback address', 'The name leads back to the machine itself (127.0.0.0/8).', 'To reach a service on your machine, allow host.docker.internal on its port.', 'form'),
  address_private: reason('private address', 'The name leads to an address of a private network, such as 10.0.0.0/8 or 192.168.0.0/16.', PRIVATE_TODO, 'form'),
  address_link_local: reason('link-local address', 'The name leads to a link-local address (169.254.0.0/16 or fe80::/10).', PRIVATE_TODO, 'form'),
  address_metadata: reason('cloud metadata address', 'The name leads to the address where clouds hand out credentials. Servers that are attacked go there first.', 'Leave it blocked, and ask why this server wants it.', 'form'),
  address_cgnat: reason('carrier address', 'The name leads to an address behind a carrier\u2019s or VPN\u2019s NAT (100.64.0.0/10).', PRIVATE_TODO, 'form'),
  address_multicast: reason('multicast address', 'The name leads to a multicast address, which no single host owns.', 'Nothing useful is there; check what the server wants.', ''),
  address_reserved: reason('reserved address', 'The name leads to an address that is not in use on the public internet.', 'Check the DNS records of this name.', ''),
  address_embedded: reason('address inside an address', 'An IPv4 address is hidden inside an IPv6 one, a known way to slip past filters.', 'Check what the server wants.', ''),
  address_host: reason('your own machine', 'The name leads to an address of the machine that runs your containers.', 'To reach a service on your machine, allow host.docker.internal on its port.', 'form'),
  address_self: reason('Stockade itself', 'The server tried to reach Stockade\u2019s own ports. No rule can open them.', 'Ask why this server tries that.', ''),
  bad_request: reason('malformed request', 'The proxy refuses requests that are not written strictly by the standard, because filters are fooled that way.', 'Look at the server\u2019s logs; report it to its author if it is an ordinary request.', ''),
  https_without_connect: reason('https without CONNECT', 'The program sent an https URL to the proxy as if it were http. Old versions of axios do that.', 'Update the program, or let it go around the proxy: `no_proxy: "*"` in its `env` and `direct: allow` in its network rules.', 'form'),
  too_large: reason('request head too large', 'The head of the request was larger than the proxy accepts.', 'Look at the server\u2019s logs.', ''),
  sni_mismatch: reason('other name in the tunnel', 'The server asked for one host and then named another inside the encrypted connection. It was cut.', 'Ask why this server does that. Allowing either host does not help.', ''),
  sni_missing: reason('no name in the tunnel', 'The encrypted connection did not say which host it is for, so it cannot be checked. It was cut.', 'If this client cannot send a name, allow the host as \u201craw TCP\u201d in the network rules.', 'form'),
  inner_host_mismatch: reason('other host in the tunnel', 'The server asked for one host and then sent a request for another one. It was cut.', 'Ask why this server does that.', ''),
  not_tls: reason('not TLS or HTTP', 'What was sent through the tunnel is neither TLS nor plain HTTP, so it cannot be checked. It was cut.', 'For a database or another protocol, allow the host as \u201craw TCP\u201d on its port in the network rules.', 'form'),
  limit_connections: reason('too many connections', 'The server has as many connections open as its limit allows.', 'Raise `limits.connections` of this server if it needs more.', 'form'),
  limit_rate: reason('too many at once', 'The server opens connections faster than its limit allows.', 'Raise `limits.rate` of this server if it needs more.', 'form'),
  limit_dns: reason('too many lookups', 'The server looks names up faster than its limit allows. Data can be smuggled out that way.', 'Look at the names; raise `limits.dns_rate` if they are harmless.', 'form'),
  head_timeout: reason('request never finished', 'The server began a request and did not finish it in time.', 'Look at the server\u2019s logs.', ''),
  idle_timeout: reason('idle too long', 'Nothing was sent either way for a long time, so the connection was closed.', 'Usually harmless: programs open it again.', ''),
  dns_failed: reason('name not found', 'The host is allowed, but its name could not be looked up.', 'Check the spelling and this machine\u2019s own DNS.', ''),
  connect_failed: reason('could not connect', 'The host is allowed, but it did not accept the connection.', 'Check that the service is up and the port is right.', ''),
  connect_timeout: reason('no answer', 'The host is allowed, but it did not answer in time.', 'Check that the service is up and reachable from this machine.', ''),
  host_loopback_only: reason('listens on 127.0.0.1 only', 'The service on your machine listens on 127.0.0.1 only, where no container can reach it.', 'Start the service so that it listens on 0.0.0.0, or on the address of the Docker bridge.', ''),
  upstream_invalid: reason('bad answer from outside', 'The host outside answered with something that is not well-formed HTTP.', 'The fault is at the other end.', ''),
  upstream_proxy_failed: reason('your company proxy refused', 'The proxy that `egress.upstream_proxy` names did not carry the connection.', 'Check that setting and the proxy\u2019s own rules.', ''),
  policy_revoked: reason('no longer allowed', 'The rules changed while this connection was open, so it was cut.', '', ''),
  door_closed: reason('server stopped', 'The server stopped or restarted while this connection was open.', '', ''),
  shutdown: reason('Stockade stopped', 'Stockade stopped while this connection was open.', '', ''),
};

const UNKNOWN = (code) => reason(code, 'This page does not know this reason; the gateway may be newer than the page.', 'Reload the page.', '');
export const explain = (code) => REASONS[code] || UNKNOWN(code);

const ENDINGS = new Set(['idle_timeout', 'policy_revoked', 'door_closed', 'shutdown']);
const FAILURES = new Set(['dns_failed', 'connect_failed', 'connect_timeout', 'host_loopback_only', 'upstream_invalid', 'upstream_proxy_failed']);

/** 'allowed' | 'blocked' | 'report' | 'failed' (allowed, but the outside did not answer): what the row shows. */
export function verdict(event) {
  if (event.decision === 'report') return 'report';
  if (FAILURES.has(event.reason)) return 'failed';
  if (event.decision === 'allow' || (event.was === 'allow' && ENDINGS.has(event.reason))) return 'allowed';
  return 'blocked';
}
