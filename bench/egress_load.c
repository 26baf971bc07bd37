/* Load for bench/egress.py: one thread, epoll, as little work as possible, so that the proxy is what is measured.
 *
 *   egress_load serve ECHO BULK HTTP              upstream: answers one byte / streams for ever / answers HTTP
 *   egress_load tunnels PORT HEAD HELLO N SECS    new CONNECT tunnels, N at a time; HEAD and HELLO are files
 *   egress_load http    PORT HEAD -     N SECS    keep-alive requests on N connections
 *   egress_load bulk    PORT HEAD HELLO N SECS    bytes out of N tunnels
 *   egress_load idle    PORT HEAD HELLO N 0       N tunnels, held until stdin closes
 *   HEAD is "-" to speak to the upstream itself.
 * Prints: count seconds bytes p50_us p99_us errors
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAXFD 65536
#define CHUNK 262144
enum { ECHO = 1, BULK, HTTP };
enum { CONNECTING, HEADING, HELLOED, FLOWING };
struct conn { int kind, state, seen; double started; };
static struct conn conns[MAXFD];
static char chunk[CHUNK], head[8192], hello[32768];
static int head_len, hello_len, ep;
static double *lat; static long nlat, caplat;
static const char RESPONSE[] = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 256\r\n\r\n"
"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void die(const char *what) { perror(what); exit(1); }
static void watch(int fd, unsigned events, int op) { struct epoll_event e = {.events = events, .data.fd = fd}; if (epoll_ctl(ep, op, fd, &e)) die("epoll_ctl"); }
static int slurp(const char *path, char *to, int most) {
    if (!strcmp(path, "-")) return 0;
    int fd = open(path, O_RDONLY); if (fd < 0) die(path);
    int n = read(fd, to, most); close(fd); return n;
}
static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    return fd;
}
static void serve(int *ports) {
    int fds[3]; struct epoll_event ev[256];
    for (int i = 0; i < 3; i++) { fds[i] = listener(ports[i]); watch(fds[i], EPOLLIN, EPOLL_CTL_ADD); }
    puts("ready"); fflush(stdout);
    for (;;) {
        int n = epoll_wait(ep, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd, kind = 0;
            for (int k = 0; k < 3; k++) if (fd == fds[k]) kind = k + 1;
            if (kind) {
                int c; while ((c = accept4(fd, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    int one = 1; setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[c] = (struct conn){.kind = kind}; watch(c, EPOLLIN, EPOLL_CTL_ADD);
                }
                continue;
            }
            struct conn *c = &conns[fd];
            if (ev[i].events & (EPOLLERR | EPOLLHUP)) { close(fd); continue; }
            if (ev[i].events & EPOLLIN) {
                int got = read(fd, chunk, CHUNK);
                if (got == 0 || (got < 0 && errno != EAGAIN)) { close(fd); continue; }
                if (got > 0 && c->kind == ECHO) { if (write(fd, "k", 1) < 0) {} }
                if (got > 0 && c->kind == HTTP) { if (write(fd, RESPONSE, sizeof RESPONSE - 1) < 0) {} }
                if (got > 0 && c->kind == BULK && !c->state) { c->state = 1; watch(fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD); }
            }
            if (ev[i].events & EPOLLOUT) for (int r = 0; r < 4; r++) if (write(fd, chunk, CHUNK) < 0) { if (errno != EAGAIN) close(fd); break; }
        }
    }
}
static int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (void *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
    conns[fd] = (struct conn){.state = CONNECTING, .started = now()};
    watch(fd, EPOLLOUT, EPOLL_CTL_ADD);
    return fd;
}
static void note(double started) {
    if (nlat == caplat) { caplat = caplat ? caplat * 2 : 65536; lat = realloc(lat, caplat * sizeof *lat); }
    lat[nlat++] = now() - started;
}
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
static void done(int fd, int port, int again) { struct linger l = {1, 0}; if (again == 2) setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l); close(fd); if (again) dial(port); }

int main(int argc, char **argv) {
    struct rlimit lim = {MAXFD, MAXFD}; setrlimit(RLIMIT_NOFILE, &lim);
    signal(SIGPIPE, SIG_IGN);
    ep = epoll_create1(0);
    if (argc == 5 && !strcmp(argv[1], "serve")) { int p[3] = {atoi(argv[2]), atoi(argv[3]), atoi(argv[4])}; serve(p); }
    if (argc != 7) { fprintf(stderr, "usage: see the top of the source\n"); return 2; }
    int port = atoi(argv[2]), n = atoi(argv[5]), tunnels = !strcmp(argv[1], "tunnels"), http = !strcmp(argv[1], "http");
    int bulk = !strcmp(argv[1], "bulk"), idle = !strcmp(argv[1], "idle"), up = 0;
    double secs = atof(argv[6]), begin = now(), warm = begin + (secs > 1 ? 0.5 : 0), end = warm + secs;
    long count = 0, bytes = 0, errors = 0;
    head_len = slurp(argv[3], head, sizeof head); hello_len = slurp(argv[4], hello, sizeof hello);
    for (int i = 0; i < n; i++) { dial(port); if (idle && i % 64 == 63) usleep(20000); }
    struct epoll_event ev[256]; static char in[CHUNK];
    while (idle ? up < n : now() < end) {
        int k = epoll_wait(ep, ev, 256, 100);
        for (int i = 0; i < k; i++) {
            int fd = ev[i].data.fd; struct conn *c = &conns[fd];
            if (c->state == CONNECTING) {
                watch(fd, EPOLLIN, EPOLL_CTL_MOD);
                const char *first = head_len || http ? head : hello; int len = head_len || http ? head_len : hello_len;
                c->state = head_len ? HEADING : HELLOED; c->seen = 0; if (http) { c->state = FLOWING; c->started = now(); }
                if (write(fd, first, len) != len) { errors++; done(fd, port, 1); }
                continue;
            }
            int got = read(fd, in, bulk && c->state == FLOWING ? CHUNK : 65536);
            if (got <= 0) { if (got < 0 && errno == EAGAIN) continue; if (!errors) fprintf(stderr, "closed in state %d: %s\n", c->state, got ? strerror(errno) : "end"); errors++; done(fd, port, !idle); continue; }
            if (http) {
                c->seen += got;
                /* the proxies' heads differ in length: a response is over when its 256 bytes of content are there */
                if (in[got - 1] == 'f' && c->seen > 256) {
                    if (now() > warm) { note(c->started); count++; bytes += c->seen; }
                    c->seen = 0; c->started = now(); if (write(fd, head, head_len) != head_len) { errors++; done(fd, port, 1); }
                }
            } else if (c->state == HEADING) {
                if (got < 12 || memcmp(in + 8, " 200", 4)) { if (!errors) fprintf(stderr, "refused: %.*s\n", got > 200 ? 200 : got, in); errors++; done(fd, port, 1); continue; }
                c->state = HELLOED;
                if (write(fd, hello, hello_len) != hello_len) { errors++; done(fd, port, 1); }
            } else if (tunnels) {
                if (now() > warm) { note(c->started); count++; }
                done(fd, port, 1);
            } else if (idle) { up++; c->state = FLOWING; watch(fd, 0, EPOLL_CTL_MOD); }
            else { c->state = FLOWING; if (now() > warm) bytes += got; }
        }
    }
    double took = now() - warm;
    qsort(lat, nlat, sizeof *lat, cmp);
    printf("%ld %.4f %ld %.0f %.0f %ld\n", count, took, bytes, nlat ? lat[nlat / 2] * 1e6 : 0, nlat ? lat[nlat * 99 / 100] * 1e6 : 0, errors);
    fflush(stdout);
    if (idle) while (read(0, in, 1) > 0) {}
    return 0;
}
