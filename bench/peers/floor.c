/* The floor: nothing but send() of frames that are built beforehand, of the same bytes and at the same cadence.
 *
 * floor PORT TICKS PERIOD_NS SYMBOLS INTERVAL_NS CONFLATE UPDATE
 *
 * TICKS is the file of bench/load/ticks.py: who gets how many updates when. A client sends one line with the indices of
 * its symbols, or "*". UPDATE is the text of one update; a frame of n updates is built when the first is sent. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 65536, LINE = 1 << 16, LONGEST = 4096, COLUMNS = 7 };

struct row { double offset, symbol, kind, rest[COLUMNS - 3]; };
struct list { int *fds; int n, room; };

static struct { char *bytes; size_t size; } frames[LONGEST + 1];
static int count[CLIENTS], touched[CLIENTS], touches;
static int known[CLIENTS], clients;
static const char *update;

static void die(const char *what) { perror(what); exit(1); }

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void add(struct list *list, int fd) {
    if (list->n == list->room) {
        list->room = list->room ? list->room * 2 : 16;
        if (!(list->fds = realloc(list->fds, list->room * sizeof *list->fds))) die("realloc");
    }
    list->fds[list->n++] = fd;
}

/* A text frame, unmasked: [update,update,...] */
static void build(int n) {
    size_t each = strlen(update), body = n * (each + 1) + 1;
    char *at = malloc(body + 10);
    if (!at) die("malloc");
    frames[n].bytes = at;
    *at++ = (char)0x81;
    if (body < 126) {
        *at++ = (char)body;
    } else {
        int width = body < 65536 ? 2 : 8;
        *at++ = width == 2 ? 126 : 127;
        for (int i = width; i--;) *at++ = (char)(body >> 8 * i);
    }
    *at++ = '[';
    for (int i = 0; i < n; i++, *at++ = i < n ? ',' : ']') at = mempcpy(at, update, each);
    frames[n].size = at - frames[n].bytes;
}

static void leave(struct list *by_symbol, int symbols, int fd) {
    for (int s = 0; s < symbols; s++)
        for (int i = 0; i < by_symbol[s].n; i++)
            if (by_symbol[s].fds[i] == fd) by_symbol[s].fds[i--] = by_symbol[s].fds[--by_symbol[s].n];
    for (int i = 0; i < clients; i++)
        if (known[i] == fd) known[i--] = known[--clients];
    close(fd);
}

/* Blocks when the client's buffers are full; the bench then sees that the client is behind. */
static int transmit(int fd, const char *bytes, size_t size) {
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        bytes += sent;
        size -= sent;
    }
    return 1;
}

static int take_line(struct list *by_symbol, int symbols, int fd) {
    static const char answer[] = "\x81\x18[{\"T\":\"subscription\"}]  ";
    static char line[LINE];
    int n = 0;
    do {
        ssize_t got = recv(fd, line + n, 1, 0);
        if (got <= 0 || n == LINE - 1) return 0;
    } while (line[n++] != '\n');
    line[n] = 0;
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
        if (*word == '*') {
            for (int s = 0; s < symbols; s++) add(&by_symbol[s], fd);
        } else if (atoi(word) >= 0 && atoi(word) < symbols) {
            add(&by_symbol[atoi(word)], fd);
        }
    }
    return transmit(fd, answer, sizeof answer - 1);
}

int main(int argc, char **argv) {
    if (argc != 8) return fprintf(stderr, "floor: 7 arguments\n"), 2;
    long long period = atoll(argv[3]), interval = atoll(argv[5]);
    int symbols = atoi(argv[4]), conflate = atoi(argv[6]);
    update = argv[7];

    FILE *file = fopen(argv[2], "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(argv[2]);
    long rows = ftell(file) / (long)sizeof(struct row);
    struct row *row = malloc(rows * sizeof *row);
    rewind(file);
    if (!row || fread(row, sizeof *row, rows, file) != (size_t)rows) die(argv[2]);
    fclose(file);

    struct list *by_symbol = calloc(symbols, sizeof *by_symbol);
    long long *seen = calloc(symbols * 3, sizeof *seen);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");

    static struct pollfd polled[CLIENTS];
    long long start = now_ns(), begin = start, due = start + interval, flush = 0, look = start;
    for (long next = 0;;) {
        long long now = now_ns();
        /* Newcomers and lines are looked for now and then: the clients say nothing once they have subscribed. */
        if (now >= look) {
            look = now + 100000000;
            polled[0] = (struct pollfd){.fd = listener, .events = POLLIN};
            for (int i = 0; i < clients; i++) polled[i + 1] = (struct pollfd){.fd = known[i], .events = POLLIN};
            int n = clients;
            if (poll(polled, n + 1, 0) > 0) {
                look = now; /* more may follow at once */
                for (int i = 1; i <= n; i++)
                    if (polled[i].revents && !take_line(by_symbol, symbols, polled[i].fd)) leave(by_symbol, symbols, polled[i].fd);
                for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
                    if (fd >= CLIENTS - 1) {
                        close(fd);
                        continue;
                    }
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    known[clients++] = fd;
                }
            }
        }
        if ((now = now_ns()) < due) {
            struct timespec t = {due / 1000000000, due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
            now = now_ns();
        }
        due = due + interval > now ? due + interval : now;
        flush++;
        for (; begin + (long long)row[next].offset <= now;) {
            int symbol = (int)row[next].symbol, key = symbol * 3 + (int)row[next].kind;
            if (!conflate || seen[key] != flush) {
                seen[key] = flush;
                for (int i = 0; i < by_symbol[symbol].n; i++) {
                    int fd = by_symbol[symbol].fds[i];
                    if (!count[fd]++) touched[touches++] = fd;
                }
            }
            if (++next == rows) next = 0, begin += period;
        }
        for (int i = 0; i < touches; i++) {
            int fd = touched[i], n = count[fd];
            for (count[fd] = 0; n;) {
                int part = n < LONGEST ? n : LONGEST;
                if (!frames[part].bytes) build(part);
                if (!transmit(fd, frames[part].bytes, frames[part].size)) {
                    leave(by_symbol, symbols, fd);
                    break;
                }
                n -= part;
            }
        }
        touches = 0;
    }
}
