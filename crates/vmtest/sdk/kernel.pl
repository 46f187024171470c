# A kernel server that speaks what the SDK's code runner speaks (Jupyter's /api/kernels and its WebSocket of JSON messages), with Perl
# as its language: the capsule's image has no Jupyter. Variables outlive a cell and a connection; Perl's `our` makes them.
use strict;
use warnings;
use Digest::SHA qw(sha1_base64);
use IO::Select;
use IO::Socket::INET;
use JSON::PP;

my $json   = JSON::PP->new->utf8->canonical;
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 8888, Listen => 16, ReuseAddr => 1) or die "listen: $!";
my $select = IO::Select->new($server);
my (%sockets, @kernels, $count);

while (1) {
    for my $ready ($select->can_read) {
        if ($ready == $server) {
            my $client = $server->accept or next;
            greet($client);
        } elsif (defined(my $message = receive($ready))) {
            execute($ready, $json->decode($message)) if length $message;
        } else {
            $select->remove($ready);
            delete $sockets{$ready};
            close $ready;
        }
    }
}

sub greet {
    my ($client) = @_;
    my ($head, %header, $body) = ('');
    while ($head !~ /\r\n\r\n/) { sysread($client, $head, 1, length $head) or return }
    while ($head =~ /^([\w-]+):\s*(.*?)\r$/mg) { $header{lc $1} = $2 }
    read_exact($client, \$body, $header{'content-length'} // 0) // return;
    if (my $key = $header{'sec-websocket-key'}) {
        my $accept = sha1_base64($key . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11') . '=';
        print $client "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: $accept\r\n\r\n";
        $client->autoflush(1);
        $sockets{$client} = 1;
        return $select->add($client);
    }
    my $answer = \@kernels;
    if ($head =~ /^POST/) {
        $answer = { id => 'kernel-' . @kernels, name => $json->decode($body)->{name} };
        push @kernels, $answer;
    }
    my $text = $json->encode($answer);
    print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " . length($text) . "\r\nConnection: close\r\n\r\n$text";
    close $client;
}

sub execute {
    my ($client, $request) = @_;
    my $tell = sub {
        my ($type, $content) = @_;
        frame($client, 1, $json->encode({ channel => 'iopub', msg_type => $type, parent_header => $request->{header}, content => $content }));
    };
    $tell->('status', { execution_state => 'busy' });
    $count++;
    my $printed = '';
    my $value = do {
        open my $out, '>', \$printed or die;
        my $before = select $out;
        no strict;
        my $value = eval $request->{content}{code};
        select $before;
        $value;
    };
    my $error = $@;
    $tell->('stream', { name => 'stdout', text => $printed }) if length $printed;
    if ($error) {
        $tell->('error', { ename => 'PerlError', evalue => "$error", traceback => ["$error"] });
    } elsif (defined $value) {
        $tell->('execute_result', { execution_count => $count, data => { 'text/plain' => "$value" }, metadata => {} });
    }
    $tell->('status', { execution_state => 'idle' });
}

# One whole text message; '' for a control frame, undef at the end.
sub receive {
    my ($client) = @_;
    my ($text, $head, $mask) = ('');
    while (1) {
        read_exact($client, \$head, 2) // return;
        my ($first, $length) = unpack 'CC', $head;
        my $code = $first & 15;
        $length &= 127;
        if ($length == 126) { read_exact($client, \$head, 2) // return; $length = unpack 'n', $head }
        elsif ($length == 127) { read_exact($client, \$head, 8) // return; $length = unpack 'Q>', $head }
        read_exact($client, \$mask, 4) // return;
        read_exact($client, \my $data, $length) // return;
        $data ^= substr($mask x (1 + $length / 4), 0, $length);
        return if $code == 8;
        if ($code == 9) { frame($client, 10, $data); return '' }
        return '' if $code == 10;
        $text .= $data;
        return $text if $first & 128;
    }
}

sub frame {
    my ($client, $code, $data) = @_;
    my $length = length $data;
    my $size = $length < 126 ? pack('C', $length) : $length < 65536 ? pack('Cn', 126, $length) : pack('CQ>', 127, $length);
    print $client pack('C', 128 | $code) . $size . $data;
}

sub read_exact {
    my ($client, $into, $length) = @_;
    $$into = '';
    while (length $$into < $length) {
        sysread($client, $$into, $length - length $$into, length $$into) or return;
    }
    return 1;
}
